/* Shifts the wall clock of the processes that preload this, by the seconds in a file: a 64-bit integer that may change at
 * any time. The monotonic clocks stay, and waits until a moment of the wall clock follow the shift, as they do when an
 * administrator sets the clock of a machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

static int (*next_clock_gettime)(clockid_t, struct timespec *);
static int (*next_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*next_mutex_timedlock)(pthread_mutex_t *, const struct timespec *);
static int (*next_sem_timedwait)(sem_t *, const struct timespec *);

/* A wait looks at the shift so often. */
#define SLICE_NS 20000000L
/* Deadlines further away from the wall clock belong to the monotonic clock, which begins at the start of the machine. */
#define FAR_S (10LL * 365 * 86400)

static void resolve(void) {
  if (next_clock_gettime != NULL) return;
  next_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  next_mutex_timedlock = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
  next_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
  next_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
}

__attribute__((constructor)) static void begin(void) {
  resolve();
  const char *path = getenv("SHIFTED_CLOCK_FILE");
  int file = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) shift = mapped;
}

static int64_t shift_s(void) { return shift != NULL ? *shift : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
  resolve();
  int failed = next_clock_gettime(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift_s();
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result != NULL) *result = now.tv_sec;
  return now.tv_sec;
}

static int is_later(const struct timespec *a, const struct timespec *b) {
  return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* The next moment of the true wall clock to wait for. 0 if the deadline, of the shifted one, has passed. */
static int next_slice(const struct timespec *deadline, struct timespec *slice) {
  struct timespec shifted;
  clock_gettime(CLOCK_REALTIME, &shifted);
  if (!is_later(deadline, &shifted)) return 0;
  next_clock_gettime(CLOCK_REALTIME, slice);
  struct timespec end = {deadline->tv_sec - shift_s(), deadline->tv_nsec};
  slice->tv_nsec += SLICE_NS;
  if (slice->tv_nsec >= 1000000000L) {
    slice->tv_nsec -= 1000000000L;
    slice->tv_sec += 1;
  }
  if (is_later(slice, &end)) *slice = end;
  return 1;
}

static int is_of_wall_clock(const struct timespec *deadline) {
  struct timespec shifted;
  clock_gettime(CLOCK_REALTIME, &shifted);
  int64_t distance = (int64_t)deadline->tv_sec - (int64_t)shifted.tv_sec;
  return distance > -FAR_S && distance < FAR_S;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline) {
  resolve();
  if (!is_of_wall_clock(deadline)) return next_cond_timedwait(condition, mutex, deadline);
  struct timespec slice;
  while (next_slice(deadline, &slice)) {
    int failed = next_cond_timedwait(condition, mutex, &slice);
    if (failed != ETIMEDOUT) return failed;
  }
  /* With the mutex given back for a moment, as the real one does. */
  struct timespec passed = {0, 0};
  return next_cond_timedwait(condition, mutex, &passed);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *deadline) {
  resolve();
  struct timespec slice;
  while (next_slice(deadline, &slice)) {
    int failed = next_mutex_timedlock(mutex, &slice);
    if (failed != ETIMEDOUT) return failed;
  }
  struct timespec passed = {0, 0};
  return next_mutex_timedlock(mutex, &passed);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
  resolve();
  struct timespec slice;
  while (next_slice(deadline, &slice)) {
    if (next_sem_timedwait(semaphore, &slice) == 0) return 0;
    if (errno != ETIMEDOUT) return -1;
  }
  struct timespec passed = {0, 0};
  return next_sem_timedwait(semaphore, &passed);
}
