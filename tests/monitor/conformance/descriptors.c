// The table of descriptors: dup(2), close(2), close_range(2), fcntl(2), ioctl(2), eventfd(2).
#include "case.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

CASE(open_gives_the_lowest_free_number) {
    int a = DO(dup(0)), b = DO(dup(0)), c = DO(dup(0));
    close(a);
    close(b);
    CHECK(dup(0) == (a < b ? a : b));
    CHECK(dup(0) == (a < b ? b : a));
    close(c);
}

CASE(closing_twice_is_ebadf) {
    int fd = DO(dup(0));
    CHECK(close(fd) == 0);
    FAILS(EBADF, close(fd));
}

CASE(negative_and_huge_numbers_are_ebadf) {
    FAILS(EBADF, close(-1));
    FAILS(EBADF, dup(-1));
    FAILS(EBADF, fcntl(1 << 30, F_GETFD));
    FAILS(EBADF, close(2047));
    FAILS(EBADF, close(2048));
    FAILS(EBADF, close(3000));
    FAILS(EBADF, dup2(3000, 5));
    FAILS(EBADF, dup2(0, 5000000));
    FAILS(EBADF, read(4000, NULL, 0));
}

CASE(dup_shares_the_position) {
    put("file", "abcdef");
    int fd = DO(open("file", O_RDONLY)), other = DO(dup(fd));
    DO(lseek(fd, 3, SEEK_SET));
    CHECK(lseek(other, 0, SEEK_CUR) == 3);
}

CASE(dup2_to_itself_changes_nothing) {
    int fd = DO(open(".", O_RDONLY | O_CLOEXEC));
    CHECK(dup2(fd, fd) == fd);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    FAILS(EINVAL, dup3(fd, fd, 0));
}

CASE(dup2_replaces_what_was_there) {
    int ends[2];
    char byte;
    DO(pipe(ends));
    CHECK(dup2(0, ends[1]) == ends[1]);
    CHECK(read(ends[0], &byte, 1) == 0);
}

CASE(dup_drops_close_on_exec) {
    int fd = DO(open(".", O_RDONLY | O_CLOEXEC));
    CHECK(fcntl(dup(fd), F_GETFD) == 0);
    CHECK(fcntl(fcntl(fd, F_DUPFD_CLOEXEC, 0), F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(dup3(fd, 700, O_CLOEXEC), F_GETFD) == FD_CLOEXEC);
}

CASE(f_dupfd_counts_from_its_argument) {
    CHECK(fcntl(0, F_DUPFD, 500) == 500);
    CHECK(fcntl(0, F_DUPFD, 500) == 501);
    FAILS(EINVAL, fcntl(0, F_DUPFD, -1));
    FAILS(EINVAL, fcntl(0, F_DUPFD, 1 << 20));
}

CASE(close_range_closes_what_is_between) {
    DO(dup2(0, 600));
    DO(dup2(0, 601));
    DO(dup2(0, 603));
    CHECK(close_range(600, 602, 0) == 0);
    FAILS(EBADF, fcntl(600, F_GETFD));
    FAILS(EBADF, fcntl(601, F_GETFD));
    CHECK(fcntl(603, F_GETFD) == 0);
    CHECK(close_range(603, ~0u, 0) == 0);
    FAILS(EBADF, fcntl(603, F_GETFD));
}

CASE(close_range_can_set_close_on_exec) {
    DO(dup2(0, 610));
    CHECK(close_range(610, ~0u, CLOSE_RANGE_CLOEXEC) == 0);
    CHECK(fcntl(610, F_GETFD) == FD_CLOEXEC);
}

CASE(close_range_refuses_a_range_backwards) {
    FAILS(EINVAL, close_range(5, 4, 0));
    FAILS(EINVAL, close_range(700, 800, 64));
}

CASE(close_range_unshare_closes_for_a_process_with_one_thread) {
    DO(dup2(0, 620));
    CHECK(close_range(620, 620, CLOSE_RANGE_UNSHARE) == 0);
    FAILS(EBADF, fcntl(620, F_GETFD));
}

CASE(status_flags_are_shared_by_duplicates) {
    int ends[2];
    DO(pipe(ends));
    int other = DO(dup(ends[0]));
    CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    CHECK(fcntl(other, F_GETFL) & O_NONBLOCK);
}

CASE(the_access_mode_cannot_be_changed) {
    put("file", "x");
    int fd = DO(open("file", O_RDONLY));
    CHECK(fcntl(fd, F_SETFL, O_RDWR | O_APPEND) == 0);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
    CHECK(fcntl(fd, F_GETFL) & O_APPEND);
    FAILS(EBADF, write(fd, "y", 1));
}

CASE(ioctl_on_a_file_that_is_no_terminal_is_enotty) {
    char room[64];
    put("file", "x");
    int fd = DO(open("file", O_RDONLY));
    FAILS(ENOTTY, ioctl(fd, TCGETS, room));
    FAILS(ENOTTY, ioctl(fd, TIOCGWINSZ, room));
    CHECK(!isatty(fd));
}

CASE(fionbio_sets_the_nonblocking_flag) {
    int ends[2], on = 1;
    DO(pipe(ends));
    CHECK(ioctl(ends[0], FIONBIO, &on) == 0);
    CHECK(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
}

CASE(fioclex_sets_close_on_exec) {
    int fd = DO(dup(0));
    CHECK(ioctl(fd, FIOCLEX) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(ioctl(fd, FIONCLEX) == 0 && fcntl(fd, F_GETFD) == 0);
}

CASE(fionread_on_a_file_is_what_is_left) {
    int left = -1;
    put("file", "abcdef");
    int fd = DO(open("file", O_RDONLY));
    DO(lseek(fd, 2, SEEK_SET));
    CHECK(ioctl(fd, FIONREAD, &left) == 0 && left == 4);
}

CASE(an_eventfd_adds_up_and_resets) {
    uint64_t value = 3;
    int fd = DO(eventfd(4, EFD_NONBLOCK));
    CHECK(write(fd, &value, 8) == 8);
    CHECK(read(fd, &value, 8) == 8 && value == 7);
    FAILS(EAGAIN, read(fd, &value, 8));
}

CASE(a_semaphore_eventfd_gives_one_at_a_time) {
    uint64_t value;
    int fd = DO(eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE));
    CHECK(read(fd, &value, 8) == 8 && value == 1);
    CHECK(read(fd, &value, 8) == 8 && value == 1);
    FAILS(EAGAIN, read(fd, &value, 8));
}

CASE(an_eventfd_refuses_short_buffers_and_overflow) {
    uint64_t value = ~0ull;
    int fd = DO(eventfd(0, EFD_NONBLOCK));
    FAILS(EINVAL, read(fd, &value, 4));
    FAILS(EINVAL, write(fd, &value, 8));
    value = ~0ull - 1;
    CHECK(write(fd, &value, 8) == 8);
    FAILS(EAGAIN, write(fd, &value, 8));
}

CASE(descriptors_end_at_the_soft_limit) {
    struct rlimit old, few;
    DO(getrlimit(RLIMIT_NOFILE, &old));
    few = (struct rlimit){100, old.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    int last = 0, fd;
    while ((fd = dup(0)) >= 0) last = fd;
    FAILS(EMFILE, dup(0));
    CHECK(last == 99);
    FAILS(EBADF, dup2(0, 100));
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    close_range(20, 99, 0);
}

CASE(a_path_descriptor_is_no_open_file) {
    char byte;
    put("file", "x");
    int fd = DO(open("file", O_PATH));
    FAILS(EBADF, read(fd, &byte, 1));
    FAILS(EBADF, fcntl(fd, F_SETFL, O_APPEND));
    FAILS(EBADF, ioctl(fd, FIONREAD, &byte));
    FAILS(EBADF, fcntl(fd, 4711));
    FAILS(EBADF, fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    FAILS(EBADF, fcntl(fd, F_GET_SEALS));
    FAILS(EBADF, fcntl(fd, F_SETLEASE, F_RDLCK));
    int whole = DO(open("file", O_RDONLY));
    FAILS(EINVAL, fcntl(whole, 4711));
    close(whole);
    FAILS(EBADF, fcntl(whole, 4711));
    CHECK(fcntl(fd, F_GETFL) == O_PATH || (fcntl(fd, F_GETFL) & O_PATH));
}

CASE(f_setown_takes_the_own_process) {
    int ends[2];
    DO(pipe(ends));
    CHECK(fcntl(ends[0], F_GETOWN) == 0);
    CHECK(fcntl(ends[0], F_SETSIG, SIGUSR1) == 0);
    CHECK(fcntl(ends[0], F_GETSIG) == SIGUSR1);
}

CASE(an_unknown_fcntl_is_einval) {
    FAILS(EINVAL, fcntl(0, 9999));
    FAILS(EBADF, fcntl(900, 9999));
}
