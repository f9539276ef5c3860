// Pointers and lengths at their edges: the last byte of a mapping, holes, lengths of nothing and of too much.
#include "show.h"
#include <dirent.h>
#include <signal.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <time.h>

#define PAGE 4096

int main(void) {
    // A page, then a hole; a page that can only be read; a hole alone.
    char *page = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    DO(munmap(page + PAGE, PAGE));
    char *readable = page + 2 * PAGE, *hole = page + PAGE;
    DO(mprotect(readable, PAGE, PROT_READ));
    DO(munmap(page + 3 * PAGE, PAGE));
    char *last = page + PAGE - 1, *bad = (char *)8, *high = (char *)0x7ffffffff000, *kernel = (char *)0xffffffff80000000;
    int ends[2], fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    DO(pipe(ends));
    DO(fcntl(ends[0], F_SETFL, O_NONBLOCK));
    DO(write(fd, "0123456789", 10));

    SHOW(write(fd, bad, 0));
    SHOW(write(ends[1], bad, 0));
    SHOW(read(fd, bad, 0));
    SHOW(write(fd, bad, 1));
    SHOW(write(fd, NULL, 1));
    SHOW(write(fd, high, 1));
    SHOW(write(fd, kernel, 1));
    SHOW(write(fd, (char *)-1, 1));
    SHOW(write(fd, hole, 1));
    SHOW(pread(fd, bad, 5, 0));
    SHOW(pread(fd, hole, 5, 0));
    SHOW(pread(fd, readable, 5, 0));
    SHOW(pread(fd, kernel, 5, 0));
    SHOW(pwrite(fd, readable, 5, 20));
    SHOW(pread(fd, last, 1, 3));
    TEXT("%c", *last);
    SHOW(pwrite(fd, last, 1, 0));
    SHOW(write(ends[1], last, 1));
    SHOW(read(ends[0], last, 1));
    SHOW(write(ends[1], "abcdefgh", 8));
    SHOW(read(ends[0], last, 8) != 8);
    SHOW(read(ends[0], page, 100) >= -1);
    SHOW(pread(fd, page, -1ul, 0));
    SHOW(pread(fd, page, 1ul << 47, 0));
    SHOW(lseek(fd, 0, SEEK_END));

    struct iovec v[1100];
    for (int i = 0; i < 1100; i++) v[i] = (struct iovec){page, 1};
    SHOW(writev(ends[1], v, 1024));
    SHOW(readv(ends[0], v, 1024));
    SHOW(readv(fd, v, 1025));
    SHOW(readv(fd, v, -1));
    SHOW(readv(fd, NULL, 0));
    SHOW(readv(fd, NULL, 1));
    SHOW(readv(fd, (struct iovec *)(last - 7), 1));
    SHOW(readv(fd, (struct iovec *)bad, 1));
    v[0] = (struct iovec){page, -1ul};
    SHOW(readv(fd, v, 1));
    v[0] = (struct iovec){page, 1ul << 62}, v[1] = (struct iovec){page, 1ul << 62};
    SHOW(readv(fd, v, 2) >= 0);
    v[0] = (struct iovec){bad, 0}, v[1] = (struct iovec){page, 3};
    SHOW(preadv(fd, v, 2, 0));
    v[0] = (struct iovec){page, 3}, v[1] = (struct iovec){hole, 3};
    SHOW(preadv(fd, v, 2, 0));
    v[0] = (struct iovec){hole, 3}, v[1] = (struct iovec){page, 3};
    SHOW(preadv(fd, v, 2, 0));
    v[0] = (struct iovec){page + PAGE - 16, 32};
    SHOW(preadv(fd, v, 1, 0));
    struct iovec *edge = (struct iovec *)(page + PAGE) - 1;
    *edge = (struct iovec){page, 4};
    SHOW(preadv(fd, edge, 1, 0));

    memset(page, 'x', PAGE);
    SHOW(open(last, O_RDONLY));
    SHOW(open(page, O_RDONLY));
    *last = 0;
    SHOW(open(last, O_RDONLY));
    strcpy(last - 4, "file");
    SHOW(open(last - 4, O_RDONLY));
    SHOW(open(bad, O_RDONLY));
    SHOW(open(kernel, O_RDONLY));
    SHOW(open(hole, O_RDONLY));
    SHOW(stat("file", (struct stat *)last));
    SHOW(stat("file", (struct stat *)readable));
    SHOW(stat("file", (struct stat *)(page + PAGE - sizeof(struct stat))));
    SHOW(stat("file", (struct stat *)(page + PAGE - sizeof(struct stat) + 1)));
    SHOW(fstat(fd, (struct stat *)kernel));
    SHOW(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, (void *)last));
    SHOW(statfs(".", (void *)last));
    SHOW(syscall(SYS_getcwd, last, 4096));
    SHOW(syscall(SYS_getcwd, last, 0));
    DO(symlink("target", "link"));
    SHOW(readlink("link", last, 100));
    SHOW(readlink("link", last, 1));
    SHOW(readlink("link", page, -1));
    SHOW(rename("file", bad));
    SHOW(symlink(bad, "other"));
    SHOW(pipe((int *)(last - 7)));
    DO(close(6));
    DO(close(7));
    SHOW(pipe((int *)(last - 3)));
    SHOW(pipe((int *)last));
    SHOW(pipe((int *)readable));
    SHOW(dup(0));
    DO(close(6));

    int directory = DO(open(".", O_RDONLY));
    SHOW(syscall(SYS_getdents64, directory, last, 1));
    SHOW(syscall(SYS_getdents64, directory, page, 0));
    SHOW(syscall(SYS_getdents64, directory, page, 24) >= 24);
    SHOW(syscall(SYS_getdents64, fd, page, 100));
    SHOW(syscall(SYS_getdents64, ends[0], page, 100));
    DO(close(directory));

    struct pollfd *p = (struct pollfd *)(page + PAGE) - 1;
    *p = (struct pollfd){fd, POLLIN};
    SHOW(poll(p, 1, 0));
    SHOW(poll(p, 2, 0));
    SHOW(poll((void *)readable, 1, 0));
    SHOW(poll((void *)bad, 0, 0));
    SHOW(poll((void *)bad, 1, 0));
    SHOW(poll(p, -1, 0));
    SHOW(syscall(SYS_ppoll, p, 1, last, NULL, 8));
    SHOW(syscall(SYS_ppoll, p, 1, NULL, last, 8));
    SHOW(syscall(SYS_select, 64, page + PAGE - 8, NULL, NULL, page));
    /* select(2) reads no further than the descriptor table reaches: a high descriptor, once had,
     * makes it reach past 65 whatever the program was started with. */
    close(dup2(1, 200));
    SHOW(syscall(SYS_select, 65, page + PAGE - 8, NULL, NULL, NULL));
    SHOW(syscall(SYS_pselect6, 0, NULL, NULL, NULL, NULL, last));

    int ep = DO(epoll_create1(0));
    struct epoll_event *event = (struct epoll_event *)(page + PAGE) - 1;
    *event = (struct epoll_event){EPOLLIN, {.u64 = 7}};
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], event));
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, ends[0], (void *)last));
    DO(write(ends[1], "x", 1));
    SHOW(epoll_wait(ep, event, 1, 0));
    SHOW(epoll_wait(ep, event, 1 << 30, 0));
    SHOW(epoll_wait(ep, (void *)last, 1, 0));
    SHOW(epoll_wait(ep, event, 100, 0));

    off_t *offset = (off_t *)(page + PAGE - 8);
    *offset = 1;
    SHOW(sendfile(ends[1], fd, offset, 2));
    SHOW(sendfile(ends[1], fd, (off_t *)last, 2));
    SHOW(copy_file_range(fd, (off_t *)last, fd, NULL, 2, 0));
    SHOW(fcntl(fd, F_GETLK, last));
    SHOW(fcntl(fd, F_SETLK, bad));
    SHOW(ioctl(ends[0], FIONREAD, last));
    SHOW(ioctl(ends[0], FIONREAD, last - 3));
    SHOW(ioctl(ends[0], FIONBIO, bad));
    SHOW(memfd_create(bad, 0));
    SHOW(memfd_create(last, 0) >= 0);
    SHOW(nanosleep((void *)last, NULL));
    SHOW(getrandom(hole, 10, 0));
    SHOW(getrandom(readable, 10, 0));
    // With every signal blocked a bad pointer is an error like any other.
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    SHOW(stat(bad, (struct stat *)page));
    SHOW(stat("file", (struct stat *)hole));
    SHOW(pread(fd, hole, 5, 0));
    SHOW(poll((void *)hole, 1, 0));
    SHOW(syscall(400, 1, 2, 3));
    SHOW(syscall(-10, 1, 2, 3));
    SHOW(syscall(1000000000, 1, 2, 3));
    return 0;
}
