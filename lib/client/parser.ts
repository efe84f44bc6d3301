/** What the blocks of a stream say, in order. */
export interface Told {
  /** A block has ended that had an id; its event comes next, where it has one. */
  id (id: string): void
  event (type: string, data: string, hasId: boolean): void
  /** ms to wait before a connection is made again. */
  retry (ms: number): void
  /** A comment, such as a heartbeat. */
  comment (): void
}

/**
 * Reads an event stream as WHATWG HTML 9.2.6 says. What it gives takes the text as it comes, however that is cut, and answers false
 * where a line, or the data of an event and the line after it, have more than `maxLength` characters: then the parser is of no more use.
 * A block that no blank line ends is not told. A byte order mark is for the decoder to take.
 */
export function makeParser (told: Told, maxLength: number): (text: string) => boolean {
  /** A line whose end has not come. Pieces are not joined before it is read, so a million of them cost no more than one. */
  let begun = ''
  /** A line feed that comes next belongs to the carriage return before it. */
  let isAfterCR = false
  // The block, as far as it has come.
  let id: string | undefined
  let type = ''
  let data: string | undefined

  const isTooLong = (line: string): boolean => line.length + (data ?? '').length > maxLength

  const read = (line: string): void => {
    if (line === '') {
      const hasId = id !== undefined
      if (hasId) told.id(id!)
      if (data !== undefined) told.event(type || 'message', data, hasId)
      id = data = undefined
      type = ''
      return
    }
    const colon = line.indexOf(':')
    const end = colon < 0 ? line.length : colon
    const name = line.slice(0, end)
    const value = line.slice(end + (line[end + 1] === ' ' ? 2 : 1))
    if (name === 'data') data = data === undefined ? value : `${data}\n${value}`
    else if (name === 'event') type = value
    else if (name === 'id' && !value.includes('\0')) id = value
    else if (name === 'retry' && /^\d+$/.test(value)) told.retry(+value)
    else if (name === '') told.comment()
  }

  return text => {
    if (text === '') return true
    let at = isAfterCR && text[0] === '\n' ? 1 : 0
    isAfterCR = text.endsWith('\r')
    if (text.includes('\r')) text = text.replace(/\r\n?/g, '\n')
    for (let end; (end = text.indexOf('\n', at)) >= 0; at = end + 1) {
      const line = begun + text.slice(at, end)
      if (isTooLong(line)) return false
      begun = ''
      read(line)
    }
    begun += text.slice(at)
    return !isTooLong(begun)
  }
}
