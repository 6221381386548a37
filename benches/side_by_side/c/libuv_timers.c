/* libuv's timers (a binary heap of nodes in the handles): libuv_timers COUNT
 * Prints what timer_queue prints. The clock is the real one: the timers that are to fire are due
 * within a second, and fired by one uv_run after it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

enum { SPAN_MS = 60000, CHURN = 1000000 };

static uint64_t state = 0x9e3779b97f4a7c15ull;
static size_t fired;

static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static uint64_t deadline(void) { return 1 + next() % (SPAN_MS - 1); }

static double cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void due(uv_timer_t *timer) {
  (void)timer;
  fired++;
}

int main(int argc, char **argv) {
  size_t n = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
  if (n < 2) {
    fprintf(stderr, "usage: libuv_timers COUNT\n");
    return 2;
  }
  uv_loop_t loop;
  uv_loop_init(&loop);
  uv_timer_t *timers = malloc(n * sizeof *timers);
  uint32_t *order = malloc(n * sizeof *order);
  for (size_t i = 0; i < n; i++) {
    uv_timer_init(&loop, &timers[i]);
    order[i] = i;
  }
  for (size_t i = n - 1; i > 0; i--) {
    size_t j = next() % (i + 1);
    uint32_t swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
  double start = cpu_ns();
  for (size_t i = 0; i < n; i++) uv_timer_start(&timers[i], due, deadline(), 0);
  double first = (cpu_ns() - start) / n;
  for (size_t i = n; i-- > 0;) uv_timer_stop(&timers[i]);
  start = cpu_ns();
  for (size_t i = 0; i < n; i++) uv_timer_start(&timers[i], due, deadline(), 0);
  double schedule = (cpu_ns() - start) / n;
  start = cpu_ns();
  for (size_t k = 0; k < CHURN; k++) {
    size_t i = next() % n;
    uv_timer_stop(&timers[i]);
    uv_timer_start(&timers[i], due, deadline(), 0);
  }
  double churn = (cpu_ns() - start) / CHURN;
  /* It has one way to move a timer, which starts with stopping it. */
  start = cpu_ns();
  for (size_t k = 0; k < CHURN; k++) uv_timer_start(&timers[next() % n], due, deadline(), 0);
  double push_back = (cpu_ns() - start) / CHURN;
  start = cpu_ns();
  for (size_t k = 0; k < n / 2; k++) uv_timer_stop(&timers[order[k]]);
  double cancel = (cpu_ns() - start) / (n / 2);
  for (size_t i = 0; i < n; i++) uv_timer_stop(&timers[i]);
  uv_update_time(&loop);
  for (size_t k = 0; k < n / 2; k++) uv_timer_start(&timers[order[k]], due, 1 + next() % 999, 0);
  usleep(1100 * 1000);
  start = cpu_ns();
  uv_run(&loop, UV_RUN_NOWAIT);
  double fire = (cpu_ns() - start) / (n / 2);
  if (fired != n / 2) {
    fprintf(stderr, "fired %zu of %zu\n", fired, n / 2);
    return 1;
  }
  printf("{\"first\":%.2f,\"schedule\":%.2f,\"churn\":%.2f,\"push_back\":%.2f,"
         "\"cancel\":%.2f,\"fire\":%.2f}\n",
         first, schedule, churn, push_back, cancel, fire);
  return 0;
}
