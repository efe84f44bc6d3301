/**
 * What runs in Redis, one at a time. Keys: the hash, the sorted set, then streams.
 *
 * - The hash: `run`, which server (run id and replication id) wrote last; `life` and `seq`, where the log is; `lives` and `lost`, see `hello`;
 *   `forgotten`, which the newest entry of a channel without a score is not above; `marked`, `recent`, `old`, `swept`, see the sweep.
 * - The sorted set: stream -> seq of the newest entry of its channel, and a half more where that is an end.
 * - Each stream: entries with the id `<seq>-0`.
 *
 * Each script but `hello` is told the server that hello was told. It answers with the life '' where it runs on another one, and has done
 * nothing there. Where the data was written by another server (a restart, a failover, a backup), a new life begins.
 */
const COMMON = `
local HASH, LAST = KEYS[1], KEYS[2]
local function text(n) return string.format('%.0f', n) end  -- Lua writes 1.4e+14

local function identity()
  return redis.call('INFO', 'server'):match('run_id:(%w+)') .. ':' .. redis.call('INFO', 'replication'):match('master_replid:(%w+)')
end

local function begin(run, broken, above)
  local h = redis.call('HMGET', HASH, 'seq', 'lives')
  local seq, lives, start = tonumber(h[1]), h[2] or '', 0
  if not seq then  -- the hash alone may have vanished
    above = math.max(above, math.floor(tonumber(redis.call('ZREVRANGE', LAST, 0, 0, 'WITHSCORES')[2] or 0)))
    lives = ''
  end
  local time = redis.call('TIME')
  local id = redis.sha1hex(run .. time[1] .. ' ' .. time[2] .. lives .. above)
  -- No suffix that was lost, on this server or another, reaches up to it.
  if seq or above > 0 then start = math.max(seq or 0, above) + 4294967296 + tonumber(id:sub(33), 16) end
  lives = lives .. (lives ~= '' and text(seq) .. ' ' or '') .. id:sub(1, 10) .. ' ' .. text(start) .. (broken and ' 1 ' or ' 0 ')
  if select(2, lives:gsub(' ', '')) > 1023 then lives = lives:gsub('^%S+ %S+ %S+ %S+ ', '', 1) end  -- 256 lives: what is left of the oldest one counts as gone
  redis.call('HSET', HASH, 'run', run, 'life', id:sub(1, 10), 'seq', text(start), 'lives', lives)
  if not seq then redis.call('HSET', HASH, 'forgotten', text(start)) end
end

-- Something has been in the log, as far as is known: a life that ended where it began had nothing, unless it began with a loss.
local function used(seq)
  for _, start, broken, last in (redis.call('HGET', HASH, 'lives') .. seq):gmatch('(%S+) (%S+) (%S+) (%S+)') do
    if broken == '1' or last ~= start then return true end
  end
  return false
end

local function present()
  local h = redis.call('HMGET', HASH, 'run', 'life', 'seq', 'forgotten')
  if h[1] == ARGV[1] and tonumber(h[3]) then
    -- The set alone may have vanished: of no channel is it known any more what it had.
    if tonumber(h[4] or 0) < tonumber(h[3]) and redis.call('EXISTS', LAST) == 0 and used(h[3]) then
      h[4] = h[3]
      redis.call('HSET', HASH, 'forgotten', h[3])
    end
    return h
  end
  if identity() ~= ARGV[1] then return nil end
  begin(ARGV[1], false, 0)
  return redis.call('HMGET', HASH, 'run', 'life', 'seq', 'forgotten')
end

-- An ended channel may be used again when it is forgotten: its stream has expired, or never was, and a while has passed.
local function ended(stream, score)
  return score % 1 ~= 0 and (redis.call('EXISTS', stream) == 1 or score > tonumber(redis.call('HGET', HASH, 'old') or 0))
end
`

/**
 * run, kind, head, data, then limit and expiry of each stream. Answers { life, seq }; { life, seq, 'first' }: of the end that there was;
 * { life, number of the channel that has ended, 'ended' }.
 */
const PUBLISH = `
local h = present()
if not h then return { '', '0' } end
local life, forgotten, seq, half = h[2], tonumber(h[4] or 0), tonumber(h[3]) + 1, ARGV[2] == 'end' and '.5' or ''

local prevs = {}
for i = 3, #KEYS do
  local last = redis.call('ZSCORE', LAST, KEYS[i])
  if last and last:find('%D') then  -- a half; or as 1e+15
    local score = tonumber(last)
    last = text(math.floor(score))
    if ended(KEYS[i], score) then
      if half == '' then return { life, tostring(i - 3), 'ended' } end
      return { life, last, 'first' }
    end
  end
  prevs[i - 2] = last or forgotten > 0 and '-' .. text(forgotten) or '0'
end

local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))  -- ms

-- All streams take it, or none does. The number of the one that does not, and why.
local at
local function add()
  at = text(seq)
  for i = 3, #KEYS do
    local limit, answer = ARGV[2 * i - 1]
    if limit == '' then
      answer = redis.pcall('XADD', KEYS[i], at .. '-0', 'p', prevs[i - 2], 't', now, 'h', ARGV[3], 'd', ARGV[4])
    elseif limit ~= '0' then
      answer = redis.pcall('XADD', KEYS[i], 'MAXLEN', limit:sub(1, 1), limit:sub(2), at .. '-0', 'p', prevs[i - 2], 't', now, 'h', ARGV[3], 'd', ARGV[4])
    end
    if type(answer) == 'table' and answer.err then
      for j = 3, i - 1 do if ARGV[2 * j - 1] ~= '0' then redis.call('XDEL', KEYS[j], at .. '-0') end end
      return i, answer.err
    end
  end
end

local bad, why = add()
while bad and why:find('smaller', 1, true) do  -- a stream of before the hash and the set vanished: above its ids
  local info, top = redis.call('XINFO', 'STREAM', KEYS[bad]), nil
  for i = 1, #info, 2 do if info[i] == 'last-generated-id' then top = tonumber(info[i + 1]:match('^%d+')) end end
  if top < seq or top > 2 ^ 51 then break end
  seq = top + 1
  bad, why = add()
end
if bad then return redis.error_reply(why .. ' (' .. KEYS[bad] .. ')') end

redis.call('HSET', HASH, 'seq', at)
local message = life .. ' ' .. at .. ' ' .. table.concat(prevs, ' ') .. '\\n' .. ARGV[3] .. '\\n' .. ARGV[4]
for i = 3, #KEYS do
  if ARGV[2 * i] == '0' then redis.call('PERSIST', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ARGV[2 * i]) end
  redis.call('ZADD', LAST, at .. half, KEYS[i])
end
for i = 3, #KEYS do redis.call('PUBLISH', KEYS[i], message) end

-- The sweep forgets channels without a stream, some at a time, and none that was in use a minute ago: no process's head is below that.
if seq % 16 == 0 then
  local s = redis.call('HMGET', HASH, 'marked', 'recent', 'old', 'swept')
  local marked, old, swept = tonumber(s[1] or 0), tonumber(s[3] or 0), math.floor(tonumber(s[4] or 0))
  if now - marked > 60000 or now - marked < 0 then redis.call('HSET', HASH, 'marked', now, 'recent', at, 'old', s[2] or '0') end
  -- By rank: all channels of one event have the same score.
  local found = redis.call('ZRANGE', LAST, text(swept), text(swept + 31), 'WITHSCORES')
  local next = #found == 64 and swept or 0
  for i = 1, #found, 2 do
    if tonumber(found[i + 1]) > old then
      next = 0
      break
    end
    if redis.call('EXISTS', found[i]) == 1 then
      if #found == 64 then next = next + 1 end
    else
      redis.call('ZREM', LAST, found[i])
      forgotten = math.max(forgotten, math.floor(tonumber(found[i + 1])))
    end
  end
  redis.call('HSET', HASH, 'forgotten', text(forgotten), 'swept', text(next))
end
return { life, at }
`

/**
 * run, rows and bytes of all pages together, then for each stream: from, to, 1 for from the newest to the oldest, rows. Answers { life, seq,
 * ms since 1970, then for each stream, as far as there is room: { rows, 1 if there may be more, seq of the newest entry or what it is not above,
 * 1 if that is an end }, or the error }.
 */
const READ = `
local h = present()
if not h then return { '', '0' } end
local left, bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local function page(stream, from, to, back, most)
  local rows, count, more = {}, 8, '1'
  while more == '1' and bytes > 0 and left > 0 and #rows < most do
    count = math.min(count * 2, most - #rows, left)  -- entries may be large: a few at first
    local some = redis.pcall(back and 'XREVRANGE' or 'XRANGE', stream, from, to, 'COUNT', count)
    if some.err then return some.err end
    if #some < count then more = '0' end
    for i, row in ipairs(some) do
      rows[#rows + 1] = row
      left = left - 1
      for _, field in ipairs(row[2]) do bytes = bytes - #field end
      from = '(' .. row[1]
      if bytes <= 0 and i < #some then more = '1'; break end
    end
  end
  local score = tonumber(redis.call('ZSCORE', LAST, stream) or nil)
  return { rows, more, text(score and math.floor(score) or tonumber(h[4] or 0)), score and ended(stream, score) and '1' or '0' }
end
local time = redis.call('TIME')
local answer = { h[2], h[3], text(time[1] * 1000 + math.floor(time[2] / 1000)) }
for i = 3, #KEYS do
  if left <= 0 or bytes <= 0 then break end
  local at = 4 * i - 8
  answer[i + 1] = page(KEYS[i], ARGV[at], ARGV[at + 1], ARGV[at + 2] == '1', tonumber(ARGV[at + 3]))
end
return answer
`

/** run, and 1 if the server is to say again who it is, for a primary that became a replica answers, too: { life, seq }. */
const SEQ = `
local h = (ARGV[2] == '0' or identity() == ARGV[1]) and present()
if not h then return { '', '0' } end
return { h[2], h[3] }
`

/**
 * Evidence, as life and seq in turn: { run, seq, lives }. A pair is lost if its life is not in the table, or has ended before. Where a lost one has
 * not been noted so far, all are noted, and one new life begins, marked as broken: whoever comes later with the same evidence gets the
 * same answer. A failover that loses the mark loses the note beside it too.
 */
const HELLO = `
local run = identity()
local h = redis.call('HMGET', HASH, 'run', 'seq')
if h[1] ~= run or not tonumber(h[2]) then begin(run, false, 0) end
h = redis.call('HMGET', HASH, 'seq', 'lives', 'lost')
local ends = {}
for id, _, _, last in (h[2] .. h[1]):gmatch('(%S+) (%S+) (%S+) (%S+)') do
  ends[id] = tonumber(last)
end
local notes, noted, above = h[3] or '', {}, 0
for life, seq in notes:gmatch('(%S+) (%S+)') do noted[life] = math.max(noted[life] or 0, tonumber(seq)) end
local news = ''
for i = 1, #ARGV, 2 do
  local life, seq = ARGV[i], tonumber(ARGV[i + 1])
  if seq > (ends[life] or -1) and not ((noted[life] or -1) >= seq) then
    news = news .. ' ' .. life .. ' ' .. ARGV[i + 1]
    above = math.max(above, seq)
  end
end
if news ~= '' then
  begin(run, true, above)
  notes = notes .. news
  while select(2, notes:gsub(' ', '')) > 512 do notes = notes:gsub('^ %S+ %S+', '', 1) end
  redis.call('HSET', HASH, 'lost', notes)
end
h = redis.call('HMGET', HASH, 'seq', 'lives')
return { run, h[1], h[2] }
`

/** By name, as SCRIPT LOAD takes them. */
export const SCRIPTS = { publish: COMMON + PUBLISH, read: COMMON + READ, seq: COMMON + SEQ, hello: COMMON + HELLO } as const
