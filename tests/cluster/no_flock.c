// SPDX-License-Identifier: Apache-2.0
// A library that makes every file system one without flock, as Lustre mounted without -o flock or s3fs are. The test
// images load it: gcc -shared -fPIC -o /usr/local/lib/no_flock.so no_flock.c; LD_PRELOAD=/usr/local/lib/no_flock.so
#include <errno.h>

int flock(int file, int operation) {
  (void)file;
  (void)operation;
  errno = ENOSYS;
  return -1;
}
