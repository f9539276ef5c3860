// Pipes: pipe(2), pipe(7), splice(2), tee(2), vmsplice(2).
#include "case.h"
#include <poll.h>
#include <sys/ioctl.h>

static void ignore(int signal) {}

CASE(a_pipe_without_writers_reads_its_rest_then_nothing) {
    int ends[2];
    char byte[8];
    DO(pipe(ends));
    CHECK(write(ends[1], "rest", 4) == 4);
    close(ends[1]);
    CHECK(read(ends[0], byte, 8) == 4);
    CHECK(read(ends[0], byte, 8) == 0);
}

CASE(a_pipe_without_readers_fails_with_epipe) {
    int ends[2];
    signal(SIGPIPE, SIG_IGN);
    DO(pipe(ends));
    close(ends[0]);
    FAILS(EPIPE, write(ends[1], "x", 1));
    signal(SIGPIPE, SIG_DFL);
}

static volatile int broken;
static void on_broken(int signal) { broken++; }

CASE(a_pipe_without_readers_raises_sigpipe) {
    int ends[2];
    signal(SIGPIPE, on_broken);
    DO(pipe(ends));
    close(ends[0]);
    FAILS(EPIPE, write(ends[1], "x", 1));
    CHECK(broken == 1);
    signal(SIGPIPE, SIG_DFL);
}

CASE(an_empty_nonblocking_pipe_answers_eagain) {
    int ends[2];
    char byte;
    DO(pipe2(ends, O_NONBLOCK));
    FAILS(EAGAIN, read(ends[0], &byte, 1));
}

CASE(a_full_nonblocking_pipe_answers_eagain) {
    int ends[2];
    long total = 0, step;
    static char block[4096];
    DO(pipe2(ends, O_NONBLOCK));
    while ((step = write(ends[1], block, sizeof block)) > 0) total += step;
    CHECK(total == 65536);
    FAILS(EAGAIN, write(ends[1], "x", 1));
}

CASE(a_write_larger_than_the_room_is_cut_when_nonblocking) {
    int ends[2];
    static char block[70000];
    DO(pipe2(ends, O_NONBLOCK));
    CHECK(write(ends[1], block, sizeof block) == 65536);
}

CASE(fionread_tells_what_is_in_the_pipe) {
    int ends[2], there = -1;
    DO(pipe(ends));
    DO(write(ends[1], "12345", 5));
    CHECK(ioctl(ends[0], FIONREAD, &there) == 0 && there == 5);
}

CASE(a_packet_pipe_keeps_writes_apart) {
    int ends[2];
    char buffer[64];
    DO(pipe2(ends, O_DIRECT));
    DO(write(ends[1], "one", 3));
    DO(write(ends[1], "two", 3));
    CHECK(read(ends[0], buffer, 64) == 3);
    CHECK(read(ends[0], buffer, 2) == 2);
    FAILS(EAGAIN, (fcntl(ends[0], F_SETFL, O_NONBLOCK | O_DIRECT), read(ends[0], buffer, 64)));
}

CASE(a_pipe_cannot_be_positioned) {
    int ends[2];
    char byte;
    DO(pipe(ends));
    FAILS(ESPIPE, lseek(ends[0], 0, SEEK_CUR));
    FAILS(ESPIPE, pread(ends[0], &byte, 1, 0));
    FAILS(ESPIPE, pwrite(ends[1], &byte, 1, 0));
}

CASE(the_wrong_end_of_a_pipe_is_ebadf) {
    int ends[2];
    char byte = 0;
    DO(pipe(ends));
    FAILS(EBADF, write(ends[0], &byte, 1));
    FAILS(EBADF, read(ends[1], &byte, 1));
}

CASE(pipe2_refuses_unknown_flags) {
    int ends[2] = {-7, -7};
    FAILS(EINVAL, pipe2(ends, O_APPEND));
    CHECK(ends[0] == -7);
}

CASE(pipe_into_unmapped_memory_is_efault_and_leaks_nothing) {
    int before = dup(0), after;
    FAILS(EFAULT, syscall(SYS_pipe2, (int *)8, 0));
    after = dup(0);
    CHECK(after == before + 1);
}

CASE(closing_the_last_writer_wakes_poll_with_hup) {
    int ends[2];
    DO(pipe(ends));
    close(ends[1]);
    struct pollfd one = {ends[0], POLLIN, 0};
    CHECK(poll(&one, 1, 1000) == 1);
    CHECK(one.revents == POLLHUP);
}

CASE(closing_the_last_reader_wakes_poll_with_error) {
    int ends[2];
    DO(pipe(ends));
    close(ends[0]);
    struct pollfd one = {ends[1], POLLOUT, 0};
    CHECK(poll(&one, 1, 1000) == 1);
    CHECK(one.revents == (POLLOUT | POLLERR));
}

CASE(splice_moves_from_file_to_pipe) {
    int ends[2];
    char buffer[8] = "";
    put("file", "abcdef");
    int fd = DO(open("file", O_RDONLY));
    DO(pipe(ends));
    loff_t from = 2;
    CHECK(splice(fd, &from, ends[1], NULL, 3, 0) == 3);
    CHECK(from == 5);
    CHECK(read(ends[0], buffer, 8) == 3 && memcmp(buffer, "cde", 3) == 0);
    CHECK(lseek(fd, 0, SEEK_CUR) == 0);
}

CASE(splice_moves_from_pipe_to_file) {
    int ends[2];
    char buffer[8] = "";
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    DO(pipe(ends));
    DO(write(ends[1], "xyz", 3));
    CHECK(splice(ends[0], NULL, fd, NULL, 10, SPLICE_F_NONBLOCK) == 3);
    CHECK(pread(fd, buffer, 8, 0) == 3 && memcmp(buffer, "xyz", 3) == 0);
}

CASE(splice_between_two_files_is_einval) {
    put("a", "abc");
    put("b", "");
    int a = DO(open("a", O_RDONLY)), b = DO(open("b", O_WRONLY));
    FAILS(EINVAL, splice(a, NULL, b, NULL, 3, 0));
}

CASE(splice_with_an_offset_into_a_pipe_is_espipe) {
    int ends[2];
    loff_t zero = 0;
    put("a", "abc");
    int a = DO(open("a", O_RDONLY));
    DO(pipe(ends));
    FAILS(ESPIPE, splice(a, NULL, ends[1], &zero, 3, 0));
}

CASE(tee_copies_and_keeps) {
    int from[2], to[2];
    char buffer[8];
    DO(pipe(from));
    DO(pipe(to));
    DO(write(from[1], "twice", 5));
    CHECK(tee(from[0], to[1], 64, 0) == 5);
    CHECK(read(to[0], buffer, 8) == 5);
    CHECK(read(from[0], buffer, 8) == 5);
}

CASE(vmsplice_puts_memory_into_a_pipe) {
    int ends[2];
    char buffer[16] = "";
    struct iovec vector[2] = {{"some", 4}, {"thing", 5}};
    DO(pipe(ends));
    CHECK(vmsplice(ends[1], vector, 2, 0) == 9);
    CHECK(read(ends[0], buffer, 16) == 9 && memcmp(buffer, "something", 9) == 0);
}

CASE(vmsplice_takes_memory_out_of_a_pipe) {
    int ends[2];
    char buffer[16] = "";
    struct iovec vector = {buffer, 16};
    DO(pipe(ends));
    DO(write(ends[1], "in", 2));
    CHECK(vmsplice(ends[0], &vector, 1, 0) == 2);
    CHECK(memcmp(buffer, "in", 2) == 0);
}

CASE(a_fifo_opens_for_both_at_once) {
    char buffer[4];
    DO(mkfifo("fifo", 0600));
    int fd = open("fifo", O_RDWR);
    CHECK(fd >= 0);
    CHECK(write(fd, "abc", 3) == 3);
    CHECK(read(fd, buffer, 4) == 3);
}

CASE(a_fifo_without_reader_is_enxio_when_nonblocking) {
    DO(mkfifo("fifo", 0600));
    FAILS(ENXIO, open("fifo", O_WRONLY | O_NONBLOCK));
    CHECK(open("fifo", O_RDONLY | O_NONBLOCK) >= 0);
}

CASE(the_size_of_a_pipe_is_rounded_up_to_a_power_of_two) {
    int ends[2];
    DO(pipe(ends));
    CHECK(fcntl(ends[0], F_GETPIPE_SZ) == 65536);
    CHECK(fcntl(ends[0], F_SETPIPE_SZ, 5000) == 8192);
    CHECK(fcntl(ends[1], F_GETPIPE_SZ) == 8192);
}

CASE(a_pipe_does_not_shrink_below_its_content) {
    int ends[2];
    static char block[20000];
    DO(pipe(ends));
    DO(write(ends[1], block, sizeof block));
    FAILS(EBUSY, fcntl(ends[0], F_SETPIPE_SZ, 4096));
}

CASE(a_signal_ends_a_waiting_read_with_eintr) {
    int ends[2];
    char byte;
    DO(pipe(ends));
    struct sigaction action = {.sa_handler = ignore};
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 20000);
    FAILS(EINTR, read(ends[0], &byte, 1));
    ualarm(0, 0);
}
