// Calls with arguments that have broken monitors: each must fail as the kernel fails it.
#include "case.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

CASE(a_write_of_no_bytes_looks_at_no_pointer) {
    int ends[2];
    put("file", "x");
    int fd = DO(open("file", O_RDWR));
    char *const pointers[] = {NULL, (char *)8, (char *)0x20000, (char *)0x23000, (char *)(64l << 30), (char *)0x100000020000};
    DO(pipe(ends));
    for (unsigned i = 0; i < sizeof pointers / sizeof *pointers; i++) {
        CHECK(write(fd, pointers[i], 0) == 0);
        CHECK(read(fd, pointers[i], 0) == 0);
        CHECK(write(ends[1], pointers[i], 0) == 0);
    }
}

CASE(addresses_of_the_monitor_are_nobodys) {
    // The monitor's tables below the program, the end of the program's addresses, the monitor's own view of its memory.
    char *const pointers[] = {(char *)0x20000, (char *)0x40000, (char *)0x80000, (char *)0x1ff000, (char *)(64l << 30), (char *)0x100000020000, (char *)0x200000000000};
    char name[64];
    for (unsigned i = 0; i < sizeof pointers / sizeof *pointers; i++) {
        FAILS(EFAULT, syscall(SYS_getcwd, pointers[i], 4096) == -1 ? -1 : 0);
        FAILS(EFAULT, open(pointers[i], O_RDONLY));
        FAILS(EFAULT, syscall(SYS_uname, pointers[i]));
        FAILS(EFAULT, syscall(SYS_pipe2, pointers[i], 0));
        snprintf(name, sizeof name, "%u", i);
        int fd = DO(open(name, O_RDWR | O_CREAT, 0600));
        FAILS(EFAULT, write(fd, pointers[i], 8));
        DO(write(fd, "12345678", 8));
        FAILS(EFAULT, pread(fd, pointers[i], 8, 0));
    }
}

CASE(getdents64_of_a_file_is_enotdir) {
    char buffer[512];
    put("file", "x");
    FAILS(ENOTDIR, syscall(SYS_getdents64, DO(open("file", O_RDONLY)), buffer, sizeof buffer));
}

CASE(an_address_of_8192_bytes_is_refused) {
    static char name[8192], byte;
    int ends[2];
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_name = name, .msg_namelen = 8192, .msg_iov = &vector, .msg_iovlen = 1};
    DO(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    memset(name, 1, sizeof name);
    CHECK(sendmsg(ends[0], &message, MSG_DONTWAIT) == -1);
    CHECK(sendto(ends[0], &byte, 1, MSG_DONTWAIT, (struct sockaddr *)name, 8192) == -1);
    CHECK(bind(ends[0], (struct sockaddr *)name, 8192) == -1);
    CHECK(connect(ends[0], (struct sockaddr *)name, 8192) == -1);
}

CASE(four_thousand_messages_are_sent_as_far_as_they_fit) {
    static struct mmsghdr messages[4096];
    static struct iovec vector = {"m", 1};
    int ends[2];
    DO(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends));
    for (int i = 0; i < 4096; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &vector, .msg_iovlen = 1};
    int sent = sendmmsg(ends[0], messages, 4096, MSG_DONTWAIT);
    CHECK(sent > 0 && sent <= 1024);
    FAILS(EFAULT, sendmmsg(ends[0], (void *)0x20000, 4096, MSG_DONTWAIT));
}

CASE(three_hundred_descriptors_are_polled) {
    static struct pollfd list[300];
    int ends[2];
    DO(pipe(ends));
    for (int i = 0; i < 300; i++) list[i] = (struct pollfd){i % 2 ? ends[1] : 2000 + i, POLLOUT, 0};
    CHECK(poll(list, 300, 0) == 300);
    CHECK(list[1].revents == POLLOUT && list[0].revents == POLLNVAL && list[298].revents == POLLNVAL);
    FAILS(EFAULT, poll((void *)0x20000, 300, 0));
    FAILS(EINVAL, poll(list, 1 << 30, 0));
}

CASE(a_list_of_1025_buffers_is_refused) {
    static struct iovec many[1025];
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    FAILS(EINVAL, writev(fd, many, 1025));
    FAILS(EINVAL, readv(fd, many, 1025));
    SHOW(syscall(SYS_writev, fd, many, 1ul << 40));
    SHOW(syscall(SYS_preadv, fd, many, ~0ul, 0, 0));
}

CASE(lengths_that_overflow_are_refused) {
    struct iovec two[2] = {{"x", 1}, {"x", ~0ul}};
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    FAILS(EINVAL, writev(fd, two, 2));
    FAILS(EFAULT, write(fd, "x", ~0ul));
    FAILS(ENOMEM, mmap(NULL, ~0ul, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    FAILS(EINVAL, munmap((void *)PAGE, ~0ul - 2 * PAGE));
    FAILS(EFAULT, getrandom((void *)8, ~0ul, 0) > 0 ? 0 : -1);
}

CASE(the_last_byte_of_a_mapping_is_the_last_that_is_used) {
    char *at = pages(2), *last = at + PAGE - 1;
    int ends[2];
    DO(munmap(at + PAGE, PAGE));
    DO(pipe(ends));
    *last = 'x';
    CHECK(write(ends[1], last, 1) == 1);
    FAILS(EFAULT, write(ends[1], last + 1, 1));
    CHECK(read(ends[0], last, 1) == 1);
    FAILS(EFAULT, syscall(SYS_pipe2, last, 0));
    FAILS(EFAULT, syscall(SYS_clock_gettime, 0, last - 4));
    *last = 'x';
    FAILS(EFAULT, open(last, O_RDONLY));
    FAILS(EFAULT, syscall(SYS_rt_sigprocmask, SIG_BLOCK, last - 3, NULL, 8));
    FAILS(EFAULT, syscall(SYS_nanosleep, last - 8, NULL));
}

CASE(calls_that_do_not_exist_are_enosys) {
    long const numbers[] = {400, -10, 1000000000, 511, 512, 4096, 0x7fffffff, -1, INT64_MAX};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) FAILS(ENOSYS, syscall(numbers[i], -1, -1, -1, -1, -1, -1));
    // Only the lower half of the register is the number.
    FAILS(EBADF, syscall(INT64_MIN, -1, -1, -1, -1, -1, -1));
}
