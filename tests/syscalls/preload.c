/* Loaded before the C library into a test's child process. For files under the directory ANCHORHOLD_PRELOAD_UNDER it
   - lets a chosen system call fail, once or from then on (anchorhold_arm, called by the child), and
   - writes every change of them to the file ANCHORHOLD_PRELOAD_LOG, in their order, together with what the process prints to its
     standard error, so that a parent can tell what was on disk when something was acknowledged.
   Calls go to the kernel directly. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WRITE = 0, SYNC = 1, RENAME = 2, SEGMENT_END = 3, KINDS = 4 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char under[PATH_MAX];
static int log_file = -1;
static struct { long after; int error; int stays; } armed[KINDS];
static long happened;
static unsigned late;

__attribute__((constructor)) static void begin(void) {
  const char *directory = getenv("ANCHORHOLD_PRELOAD_UNDER"), *log = getenv("ANCHORHOLD_PRELOAD_LOG");
  if (directory) snprintf(under, sizeof under, "%s", directory);
  if (log) log_file = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  unsetenv("LD_PRELOAD");
}

/* Lets the nth call of a kind from now fail with an error (1 = the next), and if it stays all after it. 0 disarms. */
void anchorhold_arm(int kind, long nth, int error, int stays) {
  pthread_mutex_lock(&lock);
  armed[kind].after = nth;
  armed[kind].error = error;
  armed[kind].stays = stays;
  happened = 0;
  pthread_mutex_unlock(&lock);
}

/* Lets writes that fail take so many microseconds, while others go on. */
void anchorhold_late(unsigned microseconds) {
  pthread_mutex_lock(&lock);
  late = microseconds;
  pthread_mutex_unlock(&lock);
}

/* How many calls have failed since something was armed. */
long anchorhold_happened(void) {
  pthread_mutex_lock(&lock);
  long count = happened;
  pthread_mutex_unlock(&lock);
  return count;
}

static int is_under(const char *path) {
  size_t length = strlen(under);
  return length && strncmp(path, under, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The path of a descriptor, if it is under the directory. */
static int path_of(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return is_under(path);
}

static int path_at(int directory, const char *name, char *path) {
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
  } else if (directory == AT_FDCWD) {
    return 0;
  } else {
    char folder[PATH_MAX];
    if (!path_of(directory, folder)) return 0;
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX) return 0;
  }
  return is_under(path);
}

static int fails(int kind) {
  if (armed[kind].after == 0 || --armed[kind].after > 0) return 0;
  if (armed[kind].stays) armed[kind].after = 1;
  happened++;
  errno = armed[kind].error;
  return 1;
}

static void put(const void *bytes, size_t length) {
  const char *from = bytes;
  while (length > 0) {
    ssize_t written = syscall(SYS_write, log_file, from, length);
    if (written <= 0) abort();
    from += written;
    length -= (size_t)written;
  }
}

static void note(char what, const char *path, uint64_t number, const void *data, size_t length) {
  if (log_file < 0) return;
  uint32_t path_length = (uint32_t)strlen(path), data_length = (uint32_t)length;
  put(&what, 1);
  put(&path_length, 4);
  put(path, path_length);
  put(&number, 8);
  put(&data_length, 4);
  put(data, length);
}

static ssize_t write_at(int fd, const void *data, size_t length, off64_t at, int positioned) {
  char path[PATH_MAX];
  int ours = fd != log_file && path_of(fd, path);
  if (!ours && !(fd == 2 && log_file >= 0)) {
    return positioned ? syscall(SYS_pwrite64, fd, data, length, at) : syscall(SYS_write, fd, data, length);
  }
  pthread_mutex_lock(&lock);
  ssize_t written;
  unsigned pause = 0;
  int ends = positioned && (at + (off64_t)length) % (512 * 1024) == 0;
  if (ours && (fails(WRITE) || (ends && fails(SEGMENT_END)))) {
    pause = late;
    /* As a disk may: a part of it arrives. */
    int error = errno;
    if (positioned) syscall(SYS_pwrite64, fd, data, length / 2, at);
    else syscall(SYS_write, fd, data, length / 2);
    errno = error;
    written = -1;
  } else {
    if (!positioned) at = ours ? (off64_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) : 0;
    written = positioned ? syscall(SYS_pwrite64, fd, data, length, at) : syscall(SYS_write, fd, data, length);
    if (written > 0) note(ours ? 'W' : 'M', ours ? path : "", (uint64_t)at, data, (size_t)written);
  }
  int error = errno;
  pthread_mutex_unlock(&lock);
  if (pause) usleep(pause);
  errno = error;
  return written;
}

ssize_t write(int fd, const void *data, size_t length) { return write_at(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return write_at(fd, data, length, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return write_at(fd, data, length, at, 1); }

static int sync_file(int fd, long call) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return (int)syscall(call, fd);
  pthread_mutex_lock(&lock);
  int done = fails(SYNC) ? -1 : (int)syscall(call, fd);
  if (done == 0) note('S', path, 0, "", 0);
  int error = errno;
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }
int fsync(int fd) { return sync_file(fd, SYS_fsync); }

static int cut(int fd, off64_t length) {
  char path[PATH_MAX];
  int ours = path_of(fd, path);
  if (ours) pthread_mutex_lock(&lock);
  int done = (int)syscall(SYS_ftruncate, fd, length);
  if (ours && done == 0) note('T', path, (uint64_t)length, "", 0);
  int error = errno;
  if (ours) pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

int rename(const char *from, const char *to) {
  char path[PATH_MAX];
  int ours = path_at(AT_FDCWD, from, path);
  if (ours) pthread_mutex_lock(&lock);
  int done = ours && fails(RENAME) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  if (ours && done == 0) note('R', path, 0, to, strlen(to));
  int error = errno;
  if (ours) pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

static int take_away(int directory, const char *name, int flags) {
  char path[PATH_MAX];
  int ours = path_at(directory, name, path);
  if (ours) pthread_mutex_lock(&lock);
  int done = (int)syscall(SYS_unlinkat, directory, name, flags);
  if (ours && done == 0) note('U', path, 0, "", 0);
  int error = errno;
  if (ours) pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

int unlink(const char *name) { return take_away(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return take_away(AT_FDCWD, name, AT_REMOVEDIR); }
int unlinkat(int directory, const char *name, int flags) { return take_away(directory, name, flags); }

int mkdir(const char *name, mode_t mode) {
  char path[PATH_MAX];
  int ours = path_at(AT_FDCWD, name, path);
  if (ours) pthread_mutex_lock(&lock);
  int done = (int)syscall(SYS_mkdirat, AT_FDCWD, name, mode);
  if (ours && done == 0) note('D', path, 0, "", 0);
  int error = errno;
  if (ours) pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

static int open_at(int directory, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  int ours = (flags & (O_CREAT | O_TRUNC)) && path_at(directory, name, path);
  if (!ours) return (int)syscall(SYS_openat, directory, name, flags, mode);
  pthread_mutex_lock(&lock);
  struct stat there;
  int is_new = stat(path, &there) != 0;
  int fd = (int)syscall(SYS_openat, directory, name, flags, mode);
  if (fd >= 0 && (is_new || (flags & O_TRUNC))) note('C', path, 0, "", 0);
  int error = errno;
  pthread_mutex_unlock(&lock);
  errno = error;
  return fd;
}

#define MODE \
  mode_t mode = 0; \
  if (flags & O_CREAT) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

int open(const char *name, int flags, ...) { MODE return open_at(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return open_at(AT_FDCWD, name, flags, mode); }
int openat(int directory, const char *name, int flags, ...) { MODE return open_at(directory, name, flags, mode); }
int openat64(int directory, const char *name, int flags, ...) { MODE return open_at(directory, name, flags, mode); }
