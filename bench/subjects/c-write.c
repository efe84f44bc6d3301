/*
 * A floor: one write() per event and stream, in C on epoll, and nothing else. What the socket refuses is kept per
 * stream until it is writable again. Same commands as server.js.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct stream { int fd, open; char *rest; size_t rest_length; };
struct channel { struct stream **members; int size; uint64_t seq; };
struct schedule { uint64_t start, limit; long every, count, done, bytes; int first, channels, active; };

static struct channel *channels;
static int channel_count, epoll;
static struct schedule schedules[4];

static uint64_t now_us (void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void watch (struct stream *s, int op, uint32_t events) {
  struct epoll_event e = { .events = events, .data.ptr = s };
  epoll_ctl(epoll, op, s->fd, &e);
}

static struct channel *channel (int index) {
  while (index >= channel_count) {
    int grown = channel_count ? channel_count * 2 : 64;
    channels = realloc(channels, grown * sizeof *channels);
    memset(channels + channel_count, 0, (grown - channel_count) * sizeof *channels);
    channel_count = grown;
  }
  return channels + index;
}

static void send_all (struct stream *s, const char *p, size_t length) {
  if (!s->rest_length) {
    ssize_t n = write(s->fd, p, length);
    if (n < 0 && errno != EAGAIN) return; /* it left: the read side finds out */
    if (n > 0) { p += n; length -= n; }
    if (!length) return;
    watch(s, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
  }
  s->rest = realloc(s->rest, s->rest_length + length);
  memcpy(s->rest + s->rest_length, p, length);
  s->rest_length += length;
}

static void publish (struct channel *c, uint64_t seq, uint64_t due, long bytes) {
  char *chunk = malloc(bytes + 128), data[64];
  int head = bytes < 24 ? sprintf(data, "%lu ", seq) : sprintf(data, "%lu %lu ", seq, due);
  long length = head > bytes ? head : bytes;
  int n = sprintf(chunk, "%lx\r\ndata: %s", length + 8, data);
  memset(chunk + n, 'x', length - head);
  memcpy(chunk + n + length - head, "\n\n\r\n", 4);
  for (int i = 0; i < c->size; i++) if (c->members[i]->open) send_all(c->members[i], chunk, n + length - head + 4);
  free(chunk);
}

static void run (struct schedule *s) {
  while (s->done < s->count && s->start + s->done * s->every <= now_us() && now_us() < s->limit) {
    uint64_t seq = ++channel(s->first)->seq;
    publish(channel(s->first + s->done % s->channels), seq, s->start + s->done * s->every, s->bytes);
    s->done++;
    if (s->every) break; /* what became writable again has its turn, also when it is late */
  }
  if (s->done < s->count && now_us() < s->limit) return;
  s->active = 0;
  printf("{\"published\":%ld}\n", s->done);
  fflush(stdout);
}

static void subscribe (struct stream *s, char *request) {
  int first, n;
  if (sscanf(request, "GET /stream/%d/%d ", &first, &n) != 2) return;
  for (int i = first; i < first + n; i++) {
    struct channel *c = channel(i);
    if (!(c->size & (c->size - 1))) c->members = realloc(c->members, (c->size ? c->size * 2 : 1) * sizeof *c->members);
    c->members[c->size++] = s;
  }
  static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";
  s->open = 1;
  send_all(s, head, sizeof head - 1);
}

int main (void) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  socklen_t size = sizeof a;
  if (bind(listener, (struct sockaddr *) &a, sizeof a) || listen(listener, 511)) { perror("listen"); return 1; }
  getsockname(listener, (struct sockaddr *) &a, &size);
  epoll = epoll_create1(0);
  struct stream in = { .fd = 0 }, door = { .fd = listener };
  watch(&in, EPOLL_CTL_ADD, EPOLLIN);
  watch(&door, EPOLL_CTL_ADD, EPOLLIN);
  printf("{\"port\":%d}\n", ntohs(a.sin_port));
  fflush(stdout);
  struct epoll_event ready[1024];
  char buffer[65536];

  for (;;) {
    int timeout = -1;
    for (int i = 0; i < 4; i++) {
      struct schedule *s = schedules + i;
      if (!s->active) continue;
      int64_t left = (int64_t) (s->start + s->done * s->every - now_us());
      int ms = left <= 0 ? 0 : (left + 999) / 1000;
      if (timeout < 0 || ms < timeout) timeout = ms;
    }
    int n = epoll_wait(epoll, ready, 1024, timeout);
    for (int i = 0; i < n; i++) {
      struct stream *s = ready[i].data.ptr;
      if (s == &door) {
        int fd;
        while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          s = calloc(1, sizeof *s);
          s->fd = fd;
          watch(s, EPOLL_CTL_ADD, EPOLLIN);
        }
        continue;
      }
      if (s->rest_length && ready[i].events & EPOLLOUT) {
        ssize_t sent = write(s->fd, s->rest, s->rest_length);
        if (sent > 0) memmove(s->rest, s->rest + sent, s->rest_length -= sent);
        if (!s->rest_length) watch(s, EPOLL_CTL_MOD, EPOLLIN);
      }
      if (!(ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
      ssize_t r = read(s->fd, buffer, sizeof buffer - 1);
      if (s == &in) {
        if (r <= 0) return 0; /* the driver is gone */
        buffer[r] = 0;
        for (char *line = strtok(buffer, "\n"); line; line = strtok(NULL, "\n")) {
          struct schedule new = { .start = now_us(), .active = 1 }, *slot = schedules;
          long ms;
          if (sscanf(line, "publish %ld %ld %ld %d %d %ld", &new.count, &new.every, &new.bytes, &new.first, &new.channels, &ms) == 6) {
            new.limit = new.start + ms * 1000;
            while (slot->active) slot++;
            *slot = new;
          } else printf("{}\n"), fflush(stdout);
        }
      } else if (r > 0) {
        buffer[r] = 0;
        if (!s->open) subscribe(s, buffer);
      } else if (r == 0 || errno != EAGAIN) {
        s->open = 0; /* its memory stays: a floor keeps no books */
        close(s->fd);
      }
    }
    for (int i = 0; i < 4; i++) if (schedules[i].active) run(schedules + i);
  }
}
