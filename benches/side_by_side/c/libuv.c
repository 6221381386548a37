/* The libuv peer: libuv VARIANT KIND PORT
 * plain  uv_udp_init; answers with uv_udp_try_send
 * mmsg   UV_UDP_RECVMMSG; answers with uv_udp_try_send
 * send   plain receive; answers with uv_udp_send (one allocation a datagram, the
 *        documented way for code that must not lose a datagram to EAGAIN)
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { SLAB = 20 * 65536, TCP_BUF = 262144 };

static char *slab;
static int echo, queued;
static uint64_t count;

static void udp_alloc(uv_handle_t *h, size_t want, uv_buf_t *b) {
  (void)want;
  *b = uv_buf_init(slab, uv_udp_using_recvmmsg((uv_udp_t *)h) ? SLAB : 65536);
}

struct udp_req {
  uv_udp_send_t req;
  char data[];
};

static void udp_sent(uv_udp_send_t *req, int status) {
  (void)status;
  free(req);
}

static void answer(uv_udp_t *h, const char *d, size_t n, const struct sockaddr *to) {
  if (queued) {
    struct udp_req *r = malloc(sizeof *r + n);
    memcpy(r->data, d, n);
    uv_buf_t b = uv_buf_init(r->data, n);
    if (uv_udp_send(&r->req, h, &b, 1, to, udp_sent)) free(r);
  } else {
    uv_buf_t b = uv_buf_init((char *)d, n);
    uv_udp_try_send(h, &b, 1, to);
  }
}

static void udp_read(uv_udp_t *h, ssize_t n, const uv_buf_t *b, const struct sockaddr *from, unsigned flags) {
  (void)flags;
  if (n < 0 || !from) return;
  if (echo) {
    answer(h, b->base, n, from);
  } else if (n == 4 && !memcmp(b->base, "STAT", 4)) {
    answer(h, (char *)&count, 8, from);
  } else {
    count++;
  }
}

static void tcp_alloc(uv_handle_t *h, size_t want, uv_buf_t *b) {
  (void)h, (void)want;
  *b = uv_buf_init(slab, TCP_BUF);
}

static void closed(uv_handle_t *h) { free(h); }

static void tcp_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b);

struct wr {
  uv_write_t req;
  char data[];
};

static void written(uv_write_t *req, int status) {
  uv_stream_t *s = req->handle;
  free(req);
  if (status == 0) uv_read_start(s, tcp_alloc, tcp_read);
}

static void tcp_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b) {
  if (n < 0) {
    uv_close((uv_handle_t *)s, closed);
    return;
  }
  if (n == 0 || !echo) return;
  uv_buf_t o = uv_buf_init(b->base, n);
  int w = uv_try_write(s, &o, 1);
  if (w < 0) w = 0;
  if (w < n) { /* back-pressure: no reading until the rest is out */
    struct wr *r = malloc(sizeof *r + (n - w));
    memcpy(r->data, b->base + w, n - w);
    o = uv_buf_init(r->data, n - w);
    uv_read_stop(s);
    if (uv_write(&r->req, s, &o, 1, written)) free(r);
  }
}

static void accepted(uv_stream_t *l, int status) {
  if (status) return;
  uv_tcp_t *c = malloc(sizeof *c);
  uv_tcp_init(l->loop, c);
  if (uv_accept(l, (uv_stream_t *)c)) {
    uv_close((uv_handle_t *)c, closed);
    return;
  }
  uv_tcp_nodelay(c, 1);
  uv_read_start((uv_stream_t *)c, tcp_alloc, tcp_read);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  signal(SIGPIPE, SIG_IGN);
  const char *variant = argv[1], *kind = argv[2];
  uv_loop_t *loop = uv_default_loop();
  struct sockaddr_in a;
  uv_ip4_addr("127.0.0.1", atoi(argv[3]), &a);
  slab = malloc(SLAB);
  queued = !strcmp(variant, "send");
  echo = !strcmp(kind + 4, "echo");
  if (!strncmp(kind, "udp", 3)) {
    static uv_udp_t u;
    uv_udp_init_ex(loop, &u, AF_INET | (!strcmp(variant, "mmsg") ? UV_UDP_RECVMMSG : 0));
    if (uv_udp_bind(&u, (struct sockaddr *)&a, 0)) return 1;
    uv_udp_recv_start(&u, udp_alloc, udp_read);
  } else {
    static uv_tcp_t t;
    if (strcmp(variant, "plain")) return 64;
    uv_tcp_init(loop, &t);
    if (uv_tcp_bind(&t, (struct sockaddr *)&a, 0)) return 1;
    if (uv_listen((uv_stream_t *)&t, 4096, accepted)) return 1;
  }
  return uv_run(loop, UV_RUN_DEFAULT);
}
