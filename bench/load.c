/*
 * The load client: opens SSE streams, reads them, and says what arrived.
 *
 * It is C on epoll because a client in Node costs about as much per event as the server it measures, and would be what
 * is measured. It takes commands as lines on stdin and answers each with one line of JSON on stdout:
 *
 *   open <count> <first> <mod> <channels> <step> <stalled>
 *       streams k = 0..count-1, each of that many channels, from first + k % mod * channels on. Answers when all have a
 *       response. step: by how much the sequence number grows from one event of a stream to its next, 0: not evenly.
 *       stalled 1: not read any more; 2: nor has its socket much room
 *   resume              reads stalled streams again
 *   atonce <n>          how many may wait for their response at once; 200
 *   port <port>         where streams are opened from now on
 *   gzip <expected>     from now on, says that it takes gzip; 1: and takes nothing else (built with -DGZIP and -lz)
 *   reopen              connects all closed streams again, with Last-Event-ID
 *   close               closes all
 *   report              what was counted so far
 *   reset               forgets the counts, not the positions in the sequence
 *   wait <events> <ms>  answers when that many events arrived since the reset, or when the time is up
 *   waitclosed <n> <ms> answers when that many streams were ended by the server
 *   exact <n>           how many streams had the events 1 to n, once and in order, and then `sse.end`, over all their connections
 *   values <channels>   from now on, sequence number s is of channel (s - 1) % channels: to be called before open
 *   stale <n>           of how many pairs of a stream and a channel the newest event, of n in all, has not come
 *   probe <path> <rate> <count>  GETs on one keep-alive connection, open loop (blocking: use a process of its own)
 *
 * The data of an event is "<sequence number> <due time> padding", or JSON that begins with these two numbers. The due time is
 * in microseconds of CLOCK_MONOTONIC, which all processes of a machine share. Latency counts from it, so a server that
 * publishes late, or writes late, cannot hide it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef GZIP
#include <zlib.h>
#endif

#define STREAMS_PER_ADDRESS 2000 /* a source address has some 28,000 ports; those of closed streams wait a minute */
#define LINE 128 /* of a line split between two reads, as much as is looked at */
#define ID 64

enum phase { CLOSED, WAITING, CONNECTING, HEAD, BODY };
enum chunk { SIZE, EXTENSION, DATA, DATA_CR, DATA_LF, LAST };

struct stream {
  int fd;
  unsigned char phase, chunk, stalled, gap, end, ended, has_data, has_number, head_match;
  unsigned line_length, got, wrong;
  size_t chunk_left;
  uint64_t seq, due, last_seq, step, *newest;
  int first_channel, channels;
  char id[ID], line[LINE];
#ifdef GZIP
  z_stream *z; /* of a connection; zlib wants it to stay where it is */
#endif
};

static struct stream *streams;
static int total, open_now, connecting, next_waiting, epoll;
static int port, values, accepts, compressed;
static int at_once = 200; /* below every server's accept backlog, so no SYN is dropped */

static struct {
  uint64_t events, chunks, bytes, wire, missing, disorder, gaps, retries, closed, ended, refused, first_due, last_at, max;
} count;

/* Latencies in microseconds: 64 steps for each power of two, so a percentile is right to 1.6 %. */
#define STEPS 64
static uint32_t histogram[STEPS * 60];
static uint64_t measured;

static uint64_t now_us (void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t cpu_us (void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (uint64_t) (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static void latency (uint64_t us) {
  int shift = us < 2 * STEPS ? 0 : 63 - __builtin_clzll(us) - 6;
  histogram[shift * STEPS + (us >> shift)]++;
  measured++;
  if (us > count.max) count.max = us;
}

static double percentile_ms (double p) {
  uint64_t rank = measured * p, seen = 0;
  for (unsigned i = 0; i < sizeof histogram / sizeof *histogram; i++) {
    seen += histogram[i];
    if (seen > rank) return (i < STEPS ? i : (uint64_t) (i % STEPS + STEPS) << (i / STEPS - 1)) / 1000.0;
  }
  return 0;
}

static void report (void) {
  printf("{\"streams\":%d,\"events\":%lu,\"chunks\":%lu,\"bytes\":%lu,\"wire\":%lu,\"missing\":%lu,\"disorder\":%lu,\"gaps\":%lu,\"retries\":%lu,"
    "\"closed\":%lu,\"ended\":%lu,\"refused\":%lu,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f,\"seconds\":%.6f,\"cpu\":%.6f}\n",
    open_now, count.events, count.chunks, count.bytes, count.wire, count.missing, count.disorder, count.gaps, count.retries,
    count.closed, count.ended, count.refused, percentile_ms(0.5), percentile_ms(0.99), count.max / 1000.0,
    count.events && count.first_due ? (count.last_at - count.first_due) / 1e6 : 0, cpu_us() / 1e6);
  fflush(stdout);
}

static void reset (void) {
  memset(&count, 0, sizeof count);
  memset(histogram, 0, sizeof histogram);
  measured = 0;
}

/* ---- SSE ---- */

static void dispatch (struct stream *s, uint64_t now) {
  if (s->gap) count.gaps++, s->wrong++;
  else if (s->end) s->ended = 1;
  else if (s->has_number) {
    count.events++;
    if (s->seq != ++s->got) s->wrong++;
    if (s->newest) {
      unsigned k = (s->seq - 1) % values - s->first_channel;
      if (k < (unsigned) s->channels && s->seq > s->newest[k]) s->newest[k] = s->seq;
    }
    count.last_at = now;
    if (s->due) {
      latency(now > s->due ? now - s->due : 0);
      if (!count.first_due || s->due < count.first_due) count.first_due = s->due;
    }
    if (s->last_seq) {
      if (s->seq <= s->last_seq || (s->step && (s->seq - s->last_seq) % s->step)) count.disorder++;
      else if (s->step) count.missing += (s->seq - s->last_seq) / s->step - 1;
    }
    if (s->seq > s->last_seq) s->last_seq = s->seq;
  }
  s->gap = s->end = s->has_data = s->has_number = 0;
}

static const char *number (const char *p, const char *end, uint64_t *value) {
  for (*value = 0; p < end && *p >= '0' && *p <= '9'; p++) *value = *value * 10 + (*p - '0');
  return p;
}

/* A number that may have something else before it: a quote, or the name of a member. */
static const char *next_number (const char *p, const char *end, uint64_t *value) {
  for (int skipped = 0; p < end && skipped < 5 && (*p < '0' || *p > '9'); skipped++) p++;
  return number(p, end, value);
}

static void line (struct stream *s, const char *p, size_t length, uint64_t now) {
  if (length && p[length - 1] == '\r') length--;
  if (!length) { dispatch(s, now); return; }
  const char *end = p + length, *value = memchr(p, ':', length);
  if (!value) return;
  size_t name = value++ - p;
  if (value < end && *value == ' ') value++;
  if (name == 4 && !memcmp(p, "data", 4)) {
    if (s->has_data) return;
    s->has_data = 1;
    const char *after = next_number(value, end, &s->seq);
    s->has_number = s->seq > 0;
    s->due = 0;
    next_number(after, end, &s->due);
  } else if (name == 5 && !memcmp(p, "event", 5)) {
    s->gap = end - value == 7 && !memcmp(value, "sse.gap", 7);
    s->end = end - value == 7 && !memcmp(value, "sse.end", 7);
  } else if (name == 2 && !memcmp(p, "id", 2)) {
    size_t n = end - value < ID - 1 ? end - value : ID - 1;
    memcpy(s->id, value, n);
    s->id[n] = 0;
  } else if (name == 5 && !memcmp(p, "retry", 5)) count.retries++;
}

static void sse (struct stream *s, const char *p, size_t length, uint64_t now) {
  count.bytes += length;
  while (length) {
    const char *newline = memchr(p, '\n', length);
    size_t n = newline ? (size_t) (newline - p) : length;
    if (newline && !s->line_length) line(s, p, n, now);
    else {
      size_t room = LINE - s->line_length, take = n < room ? n : room;
      memcpy(s->line + s->line_length, p, take);
      s->line_length += take;
      if (newline) { line(s, s->line, s->line_length, now); s->line_length = 0; }
    }
    if (newline) n++;
    p += n;
    length -= n;
  }
}

#ifdef GZIP
static void gunzip (struct stream *s, char *p, size_t length, uint64_t now) {
  static char plain[256 * 1024];
  s->z->next_in = (unsigned char *) p;
  s->z->avail_in = length;
  do {
    s->z->next_out = (unsigned char *) plain;
    s->z->avail_out = sizeof plain;
    int result = inflate(s->z, Z_SYNC_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
      fprintf(stderr, "not gzip: %s\n", s->z->msg);
      exit(1);
    }
    sse(s, plain, sizeof plain - s->z->avail_out, now);
    if (result == Z_STREAM_END) return;
  } while (s->z->avail_in || !s->z->avail_out);
}
#endif

/* ---- HTTP/1.1, chunked ---- */

static void http (struct stream *s, const char *p, size_t length, uint64_t now) {
  const char *end = p + length;
  while (p < end && s->phase == HEAD) {
    if (s->line_length < 12) s->line[s->line_length++] = *p;
    s->head_match = *p == "\r\n\r\n"[s->head_match] ? s->head_match + 1 : *p == '\r';
    p++;
    if (s->head_match == 4) {
      if (memcmp(s->line, "HTTP/1.1 200", 12)) count.refused++;
      else open_now++;
      connecting--;
      s->phase = BODY;
      s->line_length = 0;
      if (s->stalled) { epoll_ctl(epoll, EPOLL_CTL_DEL, s->fd, NULL); return; }
    }
  }
  while (p < end) {
    char c = *p;
    switch (s->chunk) {
      case SIZE:
        p++;
        if (c >= '0' && c <= '9') s->chunk_left = s->chunk_left * 16 + (c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') s->chunk_left = s->chunk_left * 16 + ((c | 32) - 'a' + 10);
        else if (c == '\n') s->chunk = s->chunk_left ? DATA : LAST;
        else if (c == ';') s->chunk = EXTENSION;
        break;
      case EXTENSION:
        p++;
        if (c == '\n') s->chunk = s->chunk_left ? DATA : LAST;
        break;
      case DATA: {
        size_t n = (size_t) (end - p) < s->chunk_left ? (size_t) (end - p) : s->chunk_left;
#ifdef GZIP
        if (s->z) gunzip(s, (char *) p, n, now);
        else
#endif
        sse(s, p, n, now);
        p += n;
        s->chunk_left -= n;
        if (!s->chunk_left) { s->chunk = DATA_CR; count.chunks++; }
        break;
      }
      case DATA_CR: p++; s->chunk = DATA_LF; break;
      case DATA_LF: p++; s->chunk = SIZE; break;
      case LAST: p = end; break;
    }
  }
}

/* ---- connections ---- */

static void drop (struct stream *s) {
  if (s->phase == CONNECTING || s->phase == HEAD) { connecting--; count.refused++; }
  if (s->phase == BODY) {
    open_now--;
    count.closed++;
    if (s->chunk == LAST) count.ended++; /* with the closing chunk, not by cutting the socket */
  }
  if (s->phase > WAITING) close(s->fd);
  s->phase = CLOSED;
}

static void dial (struct stream *s) {
  int k = s - streams, one = 1;
  s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (s->fd < 0) { perror("socket"); exit(1); }
  setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (s->stalled == 2) {
    /* the loopback's segments of 64 KB would give it room for megabytes */
    int segment = 536, room = 4096;
    setsockopt(s->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  }
  setsockopt(s->fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + k / STREAMS_PER_ADDRESS) };
  if (bind(s->fd, (struct sockaddr *) &a, sizeof a)) { perror("bind"); exit(1); }
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  a.sin_port = htons(port);
#ifdef GZIP
  if (compressed && !s->z) {
    s->z = calloc(1, sizeof *s->z);
    inflateInit2(s->z, 15 + 16);
  } else if (compressed) inflateReset(s->z);
#endif
  s->phase = CONNECTING;
  s->chunk = SIZE;
  s->chunk_left = s->line_length = s->head_match = s->gap = s->end = s->has_data = s->has_number = 0;
  connecting++;
  struct epoll_event e = { .events = EPOLLOUT, .data.ptr = s };
  if (connect(s->fd, (struct sockaddr *) &a, sizeof a) && errno != EINPROGRESS) { perror("connect"); exit(1); }
  epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &e);
}

static void request (struct stream *s) {
  char head[256], resume[ID + 32] = "";
  if (s->id[0]) snprintf(resume, sizeof resume, "Last-Event-ID: %s\r\n", s->id);
  int n = snprintf(head, sizeof head, "GET /stream/%d/%d HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n%s%s\r\n",
    s->first_channel, s->channels, accepts ? "Accept-Encoding: gzip\r\n" : "", resume);
  if (write(s->fd, head, n) != n) { drop(s); return; }
  s->phase = HEAD;
  struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };
  epoll_ctl(epoll, EPOLL_CTL_MOD, s->fd, &e);
}

static void add (int n, int first, int mod, int channels, int step, int stalled) {
  streams = realloc(streams, (total + n) * sizeof *streams);
  memset(streams + total, 0, n * sizeof *streams);
  for (int k = 0; k < n; k++) {
    struct stream *s = streams + total + k;
    s->phase = WAITING;
    s->first_channel = first + k % mod * channels;
    s->channels = channels;
    s->step = step;
    s->stalled = stalled;
    if (values) s->newest = calloc(channels, sizeof *s->newest);
  }
  /* realloc moved the streams that epoll points to */
  for (int k = 0; k < total; k++) {
    if (streams[k].phase != BODY || streams[k].stalled) continue;
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = streams + k };
    epoll_ctl(epoll, EPOLL_CTL_MOD, streams[k].fd, &e);
  }
  next_waiting = 0;
  total += n;
}

static void resume (void) {
  for (int k = 0; k < total; k++) {
    struct stream *s = streams + k;
    if (!s->stalled) continue;
    s->stalled = 0;
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };
    if (s->phase == BODY) epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &e);
  }
}

static int exact (unsigned n) {
  int found = 0;
  for (int k = 0; k < total; k++) found += streams[k].got == n && !streams[k].wrong && streams[k].ended;
  return found;
}

static int stale (uint64_t n) {
  int found = 0;
  for (int k = 0; k < total; k++) {
    for (int j = 0; j < streams[k].channels; j++) {
      uint64_t channel = streams[k].first_channel + j, newest = n - (n - 1 + values - channel) % values;
      found += streams[k].newest[j] != newest;
    }
  }
  return found;
}

static void probe (const char *path, double rate, int n) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
  if (connect(fd, (struct sockaddr *) &a, sizeof a)) { perror("probe"); exit(1); }
  char head[256], answer[4096];
  int length = snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
  uint64_t start = now_us();
  for (int i = 0; i < n; i++) {
    uint64_t due = start + i * 1e6 / rate, now = now_us();
    if (now < due) usleep(due - now);
    if (write(fd, head, length) != length) break;
    /* the answer is one small segment, so the head's end and a body behind it tell that it is complete */
    size_t got = 0;
    do {
      ssize_t r = read(fd, answer + got, sizeof answer - 1 - got);
      if (r <= 0) { report(); return; }
      got += r;
      answer[got] = 0;
    } while (!strstr(answer, "\r\n\r\n") || !strcmp(strstr(answer, "\r\n\r\n"), "\r\n\r\n"));
    latency(now_us() - due);
    count.events++;
  }
  close(fd);
  report();
}

int main (int argc, char **argv) {
  if (argc < 2) return 1;
  port = atoi(argv[1]);
  epoll = epoll_create1(0);
  struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL }, ready[1024];
  epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &e);
  static char buffer[256 * 1024], input[4096];
  size_t input_length = 0;
  enum { IDLE, OPENING, EVENTS, CLOSES } waiting = IDLE;
  uint64_t goal = 0, deadline = 0;

  for (;;) {
    while (next_waiting < total && connecting < at_once) {
      if (streams[next_waiting].phase == WAITING) dial(streams + next_waiting);
      next_waiting++;
    }
    if ((waiting == OPENING && next_waiting == total && !connecting) || (waiting == EVENTS && count.events >= goal) ||
        (waiting == CLOSES && count.closed >= goal) || (waiting > OPENING && now_us() >= deadline)) {
      waiting = IDLE;
      report();
    }
    int n = epoll_wait(epoll, ready, 1024, waiting > OPENING ? 5 : -1);
    for (int i = 0; i < n; i++) {
      struct stream *s = ready[i].data.ptr;
      if (s) {
        if (s->phase == CONNECTING) {
          int error = 0;
          socklen_t size = sizeof error;
          getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
          if (error) drop(s);
          else request(s);
          continue;
        }
        if (s->phase < HEAD) continue;
        ssize_t r = read(s->fd, buffer, sizeof buffer);
        if (r > 0) {
          count.wire += r;
          http(s, buffer, r, now_us());
        } else if (r == 0 || errno != EAGAIN) drop(s);
        continue;
      }
      ssize_t r = read(0, input + input_length, sizeof input - 1 - input_length);
      if (r <= 0) return 0; /* the driver is gone */
      input_length += r;
      input[input_length] = 0;
      char *newline;
      while ((newline = strchr(input, '\n'))) {
        *newline = 0;
        int v[6];
        unsigned long ms;
        char path[128];
        double rate;
        if (sscanf(input, "open %d %d %d %d %d %d", v, v + 1, v + 2, v + 3, v + 4, v + 5) == 6) {
          add(v[0], v[1], v[2], v[3], v[4], v[5]);
          waiting = OPENING;
          i = n; /* ready[] points to where the streams were */
        } else if (!strcmp(input, "reopen")) {
          for (int k = 0; k < total; k++) if (streams[k].phase == CLOSED) streams[k].phase = WAITING;
          next_waiting = 0;
          waiting = OPENING;
        } else if (!strcmp(input, "resume")) {
          resume();
          report();
        } else if (!strcmp(input, "close")) {
          for (int k = 0; k < total; k++) if (streams[k].phase != CLOSED) drop(streams + k);
          report();
        } else if (!strcmp(input, "report")) {
          report();
        } else if (!strcmp(input, "reset")) {
          reset();
          report();
#ifdef GZIP
        } else if (sscanf(input, "gzip %d", &compressed) == 1) {
          accepts = 1;
          report();
#endif
        } else if (sscanf(input, "port %d", v) == 1) {
          port = v[0];
          report();
        } else if (sscanf(input, "atonce %d", &at_once) == 1) {
          report();
        } else if (sscanf(input, "values %d", v) == 1) {
          values = v[0];
          report();
        } else if (sscanf(input, "exact %lu", &goal) == 1) {
          printf("{\"exact\":%d}\n", exact(goal));
          fflush(stdout);
        } else if (sscanf(input, "stale %lu", &goal) == 1) {
          printf("{\"stale\":%d}\n", stale(goal));
          fflush(stdout);
        } else if (sscanf(input, "wait %lu %lu", &goal, &ms) == 2) {
          waiting = EVENTS;
          deadline = now_us() + ms * 1000;
        } else if (sscanf(input, "waitclosed %lu %lu", &goal, &ms) == 2) {
          waiting = CLOSES;
          deadline = now_us() + ms * 1000;
        } else if (sscanf(input, "probe %127s %lf %d", path, &rate, v) == 3) probe(path, rate, v[0]);
        memmove(input, newline + 1, input + input_length - newline);
        input_length -= newline + 1 - input;
      }
    }
  }
}
