// Pairs of unix sockets: socketpair(2), messages, descriptors in messages.
#include "case.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

CASE(a_pair_carries_both_ways) {
    int ends[2];
    char buffer[8];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK(write(ends[0], "one", 3) == 3 && read(ends[1], buffer, 8) == 3);
    CHECK(send(ends[1], "two!", 4, 0) == 4 && recv(ends[0], buffer, 8, 0) == 4);
}

CASE(a_datagram_pair_keeps_messages_apart) {
    int ends[2];
    char buffer[8];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends) == 0);
    send(ends[0], "first", 5, 0);
    send(ends[0], "second", 6, 0);
    CHECK(recv(ends[1], buffer, 3, MSG_TRUNC) == 5);
    CHECK(recv(ends[1], buffer, 8, 0) == 6);
    FAILS(EAGAIN, recv(ends[1], buffer, 8, 0));
}

CASE(a_sequenced_pair_ends_with_nothing) {
    int ends[2];
    char buffer[8];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
    send(ends[0], "x", 1, 0);
    close(ends[0]);
    CHECK(recv(ends[1], buffer, 8, 0) == 1);
    CHECK(recv(ends[1], buffer, 8, 0) == 0);
}

CASE(peeking_leaves_what_is_there) {
    int ends[2];
    char buffer[8];
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    send(ends[0], "abc", 3, 0);
    CHECK(recv(ends[1], buffer, 8, MSG_PEEK) == 3);
    CHECK(recv(ends[1], buffer, 8, MSG_DONTWAIT) == 3);
    FAILS(EAGAIN, recv(ends[1], buffer, 8, MSG_DONTWAIT));
}

CASE(sending_to_nobody_is_epipe) {
    int ends[2];
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    close(ends[1]);
    FAILS(EPIPE, send(ends[0], "x", 1, MSG_NOSIGNAL));
}

CASE(a_shut_down_half_reads_nothing) {
    int ends[2];
    char buffer[8];
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    CHECK(shutdown(ends[0], SHUT_WR) == 0);
    CHECK(recv(ends[1], buffer, 8, 0) == 0);
    CHECK(send(ends[1], "x", 1, 0) == 1 && recv(ends[0], buffer, 8, 0) == 1);
    FAILS(EPIPE, send(ends[0], "x", 1, MSG_NOSIGNAL));
    FAILS(EINVAL, shutdown(ends[0], 77));
}

CASE(descriptors_travel_in_messages) {
    int ends[2], inner[2], got = -1;
    char byte = 'm', room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    DO(pipe(inner));
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    *control = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(control), &inner[0], sizeof(int));
    CHECK(sendmsg(ends[0], &message, 0) == 1);
    memset(room, 0, sizeof room);
    message.msg_controllen = sizeof room;
    CHECK(recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC) == 1);
    control = CMSG_FIRSTHDR(&message);
    CHECK(control && control->cmsg_type == SCM_RIGHTS);
    memcpy(&got, CMSG_DATA(control), sizeof(int));
    DO(write(inner[1], "through", 7));
    char text[8];
    CHECK(read(got, text, 8) == 7);
    CHECK(fcntl(got, F_GETFD) == FD_CLOEXEC);
}

CASE(a_message_with_a_closed_descriptor_is_ebadf) {
    int ends[2];
    char byte = 'm', room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    *control = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    int numbers[3] = {999, -1, 3000};
    for (int i = 0; i < 3; i++) {
        memcpy(CMSG_DATA(control), numbers + i, sizeof(int));
        FAILS(EBADF, sendmsg(ends[0], &message, 0));
    }
}

CASE(messages_know_their_errors) {
    int ends[2];
    struct iovec many[1025] = {{0}};
    struct msghdr message = {.msg_iov = many, .msg_iovlen = 1025};
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    FAILS(EMSGSIZE, sendmsg(ends[0], &message, 0));
    FAILS(EFAULT, sendmsg(ends[0], (void *)8, 0));
    message.msg_iovlen = 1;
    FAILS(ENOTSOCK, sendmsg(0, &message, 0));
    FAILS(EBADF, sendmsg(999, &message, 0));
    FAILS(ENOTSOCK, recv(0, &message, 1, 0));
}

CASE(many_messages_go_in_one_call) {
    int ends[2];
    char texts[4][8] = {"a", "bb", "ccc", "dddd"}, room[4][8];
    struct iovec vectors[4];
    struct mmsghdr messages[4] = {0};
    DO(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    for (int i = 0; i < 4; i++) {
        vectors[i] = (struct iovec){texts[i], i + 1};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = vectors + i, .msg_iovlen = 1};
    }
    CHECK(sendmmsg(ends[0], messages, 4, 0) == 4);
    for (int i = 0; i < 4; i++) vectors[i] = (struct iovec){room[i], 8};
    CHECK(recvmmsg(ends[1], messages, 4, MSG_DONTWAIT, NULL) == 4);
    for (int i = 0; i < 4; i++) CHECK(messages[i].msg_len == i + 1u);
}

CASE(options_of_a_pair_are_told) {
    int ends[2], value = -1;
    socklen_t length = sizeof value;
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    CHECK(getsockopt(ends[0], SOL_SOCKET, SO_TYPE, &value, &length) == 0 && value == SOCK_STREAM);
    CHECK(getsockopt(ends[0], SOL_SOCKET, SO_ERROR, &value, &length) == 0 && value == 0);
    CHECK(getsockopt(ends[0], SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_UNIX);
    FAILS(ENOTSOCK, getsockopt(0, SOL_SOCKET, SO_TYPE, &value, &length));
    FAILS(EFAULT, getsockopt(ends[0], SOL_SOCKET, SO_TYPE, (void *)8, &length));
}

CASE(a_receive_timeout_ends_the_wait) {
    int ends[2];
    char byte;
    struct timeval time = {0, 10000};
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    FAILS(EAGAIN, recv(ends[0], &byte, 1, 0));
}

CASE(a_pair_polls_like_a_pipe) {
    int ends[2];
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    struct pollfd one = {ends[0], POLLIN | POLLOUT | POLLRDHUP, 0};
    CHECK(poll(&one, 1, 0) == 1 && one.revents == POLLOUT);
    send(ends[1], "x", 1, 0);
    CHECK(poll(&one, 1, 0) == 1 && one.revents == (POLLIN | POLLOUT));
    close(ends[1]);
    CHECK(poll(&one, 1, 0) == 1 && (one.revents & (POLLHUP | POLLRDHUP)) == (POLLHUP | POLLRDHUP));
}
