// Reading, writing, positions, duplicates, locks, pipes, files in memory.
#include "show.h"
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <termios.h>
#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#endif

static char buffer[65536];

static void reading_and_writing(void) {
    int fd;
    SHOW(fd = open("file", O_RDWR | O_CREAT | O_EXCL, 0640));
    SHOW(write(fd, "hello world", 11));
    SHOW(lseek(fd, 0, SEEK_SET));
    SHOW(read(fd, buffer, 5));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(pread(fd, buffer, 5, 6));
    TEXT("%.5s", buffer);
    SHOW(pread(fd, buffer, 5, -1));
    SHOW(pread(fd, buffer, 5, 100));
    SHOW(pwrite(fd, "W", 1, 6));
    SHOW(lseek(fd, -1, SEEK_SET));
    SHOW(lseek(fd, 3, 99));
    SHOW(lseek(fd, 0, SEEK_END));
    struct iovec v[3] = {{buffer, 2}, {buffer + 10, 0}, {buffer + 20, 100}};
    SHOW(lseek(fd, 0, SEEK_SET));
    SHOW(readv(fd, v, 3));
    TEXT("%.2s %.9s", buffer, buffer + 20);
    SHOW(preadv(fd, v, 3, 4));
    SHOW(preadv2(fd, v, 3, -1, 0));
    SHOW(preadv2(fd, v, 3, 0, 0x40000000));
    struct iovec w[2] = {{"ab", 2}, {"cde", 3}};
    SHOW(writev(fd, w, 2));
    SHOW(pwritev(fd, w, 2, 100));
    SHOW(writev(fd, w, 0));
    SHOW(writev(fd, w, -1));
    SHOW(writev(fd, w, 1025));
    SHOW(lseek(fd, 0, SEEK_DATA));
    SHOW(lseek(fd, 0, SEEK_HOLE));
    SHOW(ftruncate(fd, 8));
    SHOW(ftruncate(fd, -1));
    SHOW(fallocate(fd, 0, 0, 64));
    SHOW(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 640));
    struct stat s;
    SHOW(fstat(fd, &s));
    TEXT("%o %ld", s.st_mode, (long)s.st_size);
    SHOW(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    SHOW(readahead(fd, 0, 100));
    SHOW(fsync(fd));
    SHOW(fdatasync(fd));
    SHOW(syncfs(fd));
    SHOW(sync_file_range(fd, 0, 0, 0));
    SHOW(close(fd));
    SHOW(close(fd));
    SHOW(read(fd, buffer, 1));
    SHOW(write(fd, buffer, 1));
    SHOW(fd = open("file", O_RDONLY));
    SHOW(write(fd, "x", 1));
    SHOW(ftruncate(fd, 1));
    SHOW(close(fd));
    SHOW(fd = open("file", O_WRONLY | O_APPEND));
    SHOW(read(fd, buffer, 1));
    SHOW(lseek(fd, 0, SEEK_SET));
    SHOW(write(fd, "end", 3));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(close(fd));
    SHOW(read(-1, buffer, 1));
    SHOW(read(2047, buffer, 1));
    SHOW(read(2048, buffer, 1));
    SHOW(read(100000, buffer, 1));
}

static void moving(void) {
    put("from", "0123456789");
    int in = DO(open("from", O_RDONLY)), out = DO(open("to", O_RDWR | O_CREAT | O_TRUNC, 0644)), pipes[2], second[2];
    off_t offset = 2;
    SHOW(sendfile(out, in, &offset, 3));
    TEXT("%ld", (long)offset);
    SHOW(sendfile(out, in, NULL, 100));
    SHOW(sendfile(out, in, NULL, 100));
    show_file("to");
    off_t from = 1, to = 0;
    SHOW(copy_file_range(in, &from, out, &to, 2, 0));
    TEXT("%ld %ld", (long)from, (long)to);
    show_file("to");
    SHOW(copy_file_range(in, NULL, out, NULL, 2, 1));
    DO(pipe(pipes));
    DO(pipe(second));
    from = 3;
    SHOW(splice(in, &from, pipes[1], NULL, 4, 0));
    SHOW(tee(pipes[0], second[1], 100, 0));
    SHOW(read(second[0], buffer, 100));
    TEXT("%.4s", buffer);
    SHOW(splice(pipes[0], NULL, out, NULL, 100, 0));
    SHOW(splice(in, NULL, out, NULL, 100, 0));
    struct iovec v[2] = {{"splice", 6}, {"d", 1}};
    SHOW(vmsplice(pipes[1], v, 2, 0));
    SHOW(read(pipes[0], buffer, 100));
    TEXT("%.7s", buffer);
    SHOW(vmsplice(out, v, 1, 0));
    show_file("to");
    for (int i = 0; i < 2; i++) close(pipes[i]), close(second[i]);
    close(in), close(out);
}

static void duplicates(void) {
    int fd = DO(open("file", O_RDWR));
    SHOW(fd);
    SHOW(dup(fd));
    SHOW(dup2(fd, 20));
    SHOW(dup2(fd, fd));
    SHOW(dup2(99, 99));
    SHOW(dup2(99, 20));
    SHOW(dup3(fd, fd, 0));
    SHOW(dup3(fd, 21, O_CLOEXEC));
    SHOW(dup3(fd, 21, 1));
    SHOW(fcntl(21, F_GETFD));
    SHOW(fcntl(20, F_GETFD));
    SHOW(fcntl(fd, F_DUPFD, 30));
    SHOW(fcntl(fd, F_DUPFD_CLOEXEC, 30));
    SHOW(fcntl(31, F_GETFD));
    SHOW(fcntl(31, F_SETFD, 0));
    SHOW(fcntl(31, F_GETFD));
    SHOW(fcntl(fd, F_DUPFD, -1));
    SHOW(fcntl(fd, F_DUPFD, 1 << 20));
    SHOW(fcntl(fd, F_GETFL));
    SHOW(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    SHOW(fcntl(20, F_GETFL));
    SHOW(fcntl(fd, 4711));
    SHOW(fcntl(99, F_GETFL));
    SHOW(lseek(fd, 3, SEEK_SET));
    SHOW(lseek(20, 0, SEEK_CUR));
    SHOW(dup2(fd, -1));
    SHOW(syscall(SYS_close_range, 20, 31, 4));
    SHOW(fcntl(20, F_GETFD));
    SHOW(syscall(SYS_close_range, 5, 4, 0));
    SHOW(syscall(SYS_close_range, fd, ~0u, 0));
    SHOW(fcntl(20, F_GETFD));
    SHOW(open("file", O_RDONLY));
    SHOW(close(fd));
    SHOW(ioctl(0x7fffffff, TCGETS, buffer));
}

static void pipes(void) {
    int ends[2];
    SHOW(pipe2(ends, O_CLOEXEC | O_NONBLOCK));
    TEXT("%d %d", ends[0], ends[1]);
    SHOW(fcntl(ends[0], F_GETFL));
    SHOW(fcntl(ends[0], F_GETFD));
    SHOW(read(ends[0], buffer, 10));
    SHOW(write(ends[1], "12345", 5));
    int waiting = -1, one = 1, zero = 0;
    SHOW(ioctl(ends[0], FIONREAD, &waiting));
    TEXT("%d", waiting);
    SHOW(ioctl(ends[0], FIONBIO, &zero));
    SHOW(fcntl(ends[0], F_GETFL));
    SHOW(ioctl(ends[0], FIONBIO, &one));
    SHOW(ioctl(ends[0], FIONCLEX));
    SHOW(fcntl(ends[0], F_GETFD));
    SHOW(ioctl(ends[0], FIOCLEX));
    SHOW(fcntl(ends[0], F_GETFD));
    struct termios t;
    SHOW(ioctl(ends[0], TCGETS, &t));
    SHOW(isatty(ends[0]));
    SHOW(ioctl(ends[0], 0x12345678));
    SHOW(fcntl(ends[1], F_GETPIPE_SZ));
    SHOW(fcntl(ends[1], F_SETPIPE_SZ, 4096));
    SHOW(lseek(ends[0], 0, SEEK_CUR));
    SHOW(pread(ends[0], buffer, 1, 0));
    long written = 0, more;
    while ((more = write(ends[1], buffer, 1000)) > 0) written += more;
    TEXT("%ld %s", written, strerrorname_np(errno));
    SHOW(close(ends[1]));
    long got = 0;
    while ((more = read(ends[0], buffer, sizeof buffer)) > 0) got += more;
    TEXT("%ld %ld", got, more);
    SHOW(close(ends[0]));
    SHOW(pipe2(ends, 0x1000000));
}

static void locks(void) {
    int a = DO(open("file", O_RDWR)), b = DO(open("file", O_RDWR));
    SHOW(flock(a, LOCK_EX));
    SHOW(flock(b, LOCK_SH | LOCK_NB));
    SHOW(flock(a, LOCK_UN));
    SHOW(flock(b, LOCK_SH | LOCK_NB));
    SHOW(flock(b, 77));
    SHOW(flock(99, LOCK_SH));
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
    SHOW(fcntl(a, F_OFD_SETLK, &l));
    SHOW(fcntl(b, F_OFD_SETLK, &l));
    SHOW(fcntl(b, F_OFD_GETLK, &l));
    TEXT("%d %d %ld %ld", l.l_type, l.l_pid, (long)l.l_start, (long)l.l_len);
    l = (struct flock){.l_type = F_RDLCK, .l_whence = 7};
    SHOW(fcntl(a, F_SETLK, &l));
    l = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 10};
    SHOW(fcntl(a, F_SETLKW, &l));
    SHOW(fcntl(a, F_GETLK, &l));
    TEXT("%d", l.l_type);
    SHOW(close(a));
    SHOW(close(b));
}

// Closing any descriptor of a file ends the process's locks on it: nothing but close may do that.
static void locks_stay(void) {
    struct stat s;
    struct timespec times[2] = {{1, 1}, {2, 2}};
    struct iovec v = {"x", 1};
    int a = DO(open("file", O_RDWR)), b = DO(open("file", O_RDWR)), other = DO(open("other", O_RDWR | O_CREAT, 0600));
    char name[100];
    sprintf(name, "/proc/self/fd/%d", a);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    SHOW(fcntl(a, F_SETLK, &l));
#define STAYS(call)                                                                         \
    do {                                                                                    \
        SHOW(call);                                                                         \
        struct flock l_ = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10}; \
        DO(fcntl(b, F_OFD_GETLK, &l_));                                                     \
        TEXT("locked: %d", l_.l_type == F_WRLCK);                                           \
    } while (0)
    STAYS(fstat(a, &s));
    STAYS(fstatat(a, "", &s, AT_EMPTY_PATH));
    STAYS(stat("file", &s));
    STAYS(stat(name, &s));
    STAYS(access(name, R_OK));
    STAYS(fchmod(a, 0640));
    STAYS(fchown(a, -1, -1));
    STAYS(futimens(a, times));
    STAYS(chmod("file", 0600));
    STAYS(truncate("file", 100));
    STAYS(truncate(name, 90));
    STAYS(ftruncate(a, 80));
    STAYS(fallocate(a, 0, 0, 100));
    STAYS(pwritev(a, &v, 1, 0));
    STAYS(readlink(name, buffer, 100) > 0);
    STAYS(copy_file_range(a, NULL, other, NULL, 10, 0));
    STAYS(linkat(AT_FDCWD, name, AT_FDCWD, "locked", AT_SYMLINK_FOLLOW));
    STAYS(unlink("locked"));
    STAYS(open(name, O_PATH) >= 0);
    void *map = mmap(NULL, 100, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
    STAYS(map != MAP_FAILED);
    STAYS(msync(map, 100, MS_SYNC));
    STAYS(munmap(map, 100));
    STAYS(fsync(a));
    STAYS(fchdir(a));
    STAYS(open("file", O_RDONLY | O_CREAT | O_EXCL));
    STAYS(open("file", O_RDONLY | O_DIRECTORY));
    int again = dup(a);
    STAYS(again >= 0);
    STAYS(close(again));
    DO(syscall(SYS_close_range, a, ~0u, 0));
}

static void memory(void) {
    int fd;
    SHOW(fd = memfd_create("name", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    SHOW(write(fd, "memory", 6));
    SHOW(fcntl(fd, F_GET_SEALS));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
    SHOW(write(fd, "more", 4));
    SHOW(ftruncate(fd, 100));
    SHOW(ftruncate(fd, 3));
    char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    TEXT("%.3s", map);
    char name[100] = "/proc/self/fd/";
    sprintf(name + 14, "%d", fd);
    memset(buffer, 0, 100);
    SHOW(readlink(name, buffer, 100));
    TEXT("%s", buffer);
    SHOW(close(fd));
    memset(buffer, 'x', 300);
    buffer[249] = 0;
    SHOW(memfd_create(buffer, 0));
    buffer[249] = 'x', buffer[250] = 0;
    SHOW(memfd_create(buffer, 0));
    SHOW(memfd_create("x", 0x80));
    SHOW(close(fd));
}

static void numbers_run_out(void) {
    int fd = -1, last = -1;
    for (int i = 0; i < 3000; i++) {
        fd = open("/dev/null", O_RDONLY);
        if (fd < 0) break;
        last = fd;
    }
    TEXT("%d %s", last < 2048 && last > 200, fd < 0 ? strerrorname_np(errno) : "none");
    SHOW(dup(0));
    int ends[2];
    SHOW(pipe(ends));
    DO(close(last));
    SHOW(pipe(ends));
    SHOW(dup(0) == last);
    DO(syscall(SYS_close_range, 3, ~0u, 0));
    SHOW(dup(0));
}

int main(void) {
    umask(022);
    reading_and_writing();
    moving();
    duplicates();
    pipes();
    locks();
    locks_stay();
    memory();
    numbers_run_out();
    return 7;
}
