// SPDX-License-Identifier: Apache-2.0
// A library that makes a pod's file system one of another machine: flock fails, as on Lustre mounted without -o flock
// or on s3fs; and files of the names in LATE_FILES, ends of paths with colons between, are not there for 20 seconds
// after they were written. A pod that writes a file sees it: it does not name it.
// gcc -shared -fPIC -O2 -o no_flock.so no_flock.c; LD_PRELOAD=/usr/local/lib/no_flock.so
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECONDS 20

int flock(int file, int operation) {
  (void)file;
  (void)operation;
  errno = ENOSYS;
  return -1;
}

static int late(int folder, const char *path) {
  const char *names = getenv("LATE_FILES");
  struct stat found;
  size_t length = path ? strlen(path) : 0;
  while (names && *names && length) {
    size_t size = strcspn(names, ":");
    if (size && size <= length && !strncmp(path + length - size, names, size))
      if (!syscall(SYS_newfstatat, folder, path, &found, 0) && time(NULL) - found.st_mtime < SECONDS) {
        errno = ENOENT;
        return 1;
      }
    names += size + (names[size] == ':');
  }
  return 0;
}

#define ORIGINAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

#define OPEN(name)                                                 \
  int name(const char *path, int flags, ...) {                     \
    va_list rest;                                                  \
    va_start(rest, flags);                                         \
    mode_t mode = mode_of(flags, rest);                            \
    va_end(rest);                                                  \
    if (!(flags & O_CREAT) && late(AT_FDCWD, path)) return -1;     \
    return ORIGINAL(name)(path, flags, mode);                      \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                               \
  int name(int folder, const char *path, int flags, ...) {         \
    va_list rest;                                                  \
    va_start(rest, flags);                                         \
    mode_t mode = mode_of(flags, rest);                            \
    va_end(rest);                                                  \
    if (!(flags & O_CREAT) && late(folder, path)) return -1;       \
    return ORIGINAL(name)(folder, path, flags, mode);              \
  }
OPENAT(openat)
OPENAT(openat64)

#define STAT(name, type)                                           \
  int name(const char *path, struct type *result) {                \
    return late(AT_FDCWD, path) ? -1 : ORIGINAL(name)(path, result); \
  }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)

#define STATAT(name, type)                                                        \
  int name(int folder, const char *path, struct type *result, int flags) {        \
    return late(folder, path) ? -1 : ORIGINAL(name)(folder, path, result, flags); \
  }
STATAT(fstatat, stat)
STATAT(fstatat64, stat64)

int access(const char *path, int mode) { return late(AT_FDCWD, path) ? -1 : ORIGINAL(access)(path, mode); }
