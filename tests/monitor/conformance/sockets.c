// Sockets inside an instance: socket(2), tcp(7), udp(7), unix(7), accept(2), connect(2), shutdown(2), recv(2).
#include "case.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef struct sockaddr_in In;
typedef struct sockaddr_in6 In6;
typedef struct sockaddr_un Un;

static In in(const char *ip, int port) {
    In address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, ip, &address.sin_addr);
    return address;
}

static In6 in6(const char *ip, int port) {
    In6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    inet_pton(AF_INET6, ip, &address.sin6_addr);
    return address;
}

static socklen_t un(Un *address, const char *name, int abstract) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path + abstract, name, strlen(name));
    return offsetof(Un, sun_path) + abstract + strlen(name) + !abstract;
}

#define BIND(fd, address) bind(fd, (struct sockaddr *)&(address), sizeof(address))
#define CONNECT(fd, address) connect(fd, (struct sockaddr *)&(address), sizeof(address))

static int port_of(int fd) {
    In6 address;
    socklen_t length = sizeof address;
    DO(getsockname(fd, (struct sockaddr *)&address, &length));
    return ntohs(address.sin6_port);
}

// A listening TCP socket on a free port of 127.0.0.1.
static int listener(int *port) {
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    In address = in("127.0.0.1", 0);
    DO(BIND(fd, address));
    DO(listen(fd, 16));
    *port = port_of(fd);
    return fd;
}

static void pair(int ends[2]) {
    int port, one = listener(&port);
    In address = in("127.0.0.1", port);
    ends[0] = DO(socket(AF_INET, SOCK_STREAM, 0));
    DO(CONNECT(ends[0], address));
    ends[1] = DO(accept(one, NULL, NULL));
    close(one);
}

static int udp(int *port) {
    int fd = DO(socket(AF_INET, SOCK_DGRAM, 0));
    In address = in("127.0.0.1", 0);
    DO(BIND(fd, address));
    *port = port_of(fd);
    return fd;
}

static int readable(int fd, int patience) {
    struct pollfd polled = {fd, POLLIN, 0};
    return poll(&polled, 1, patience);
}

CASE(tcp_carries_bytes_both_ways) {
    int ends[2];
    char text[8] = "";
    pair(ends);
    CHECK(write(ends[0], "ping", 4) == 4);
    CHECK(read(ends[1], text, 8) == 4 && !memcmp(text, "ping", 4));
    CHECK(send(ends[1], "pong!", 5, 0) == 5);
    CHECK(recv(ends[0], text, 8, 0) == 5 && !memcmp(text, "pong!", 5));
}

CASE(the_two_ends_of_tcp_know_each_other) {
    int port, one = listener(&port);
    In address = in("127.0.0.1", port), seen, own, far;
    socklen_t length = sizeof seen;
    int client = DO(socket(AF_INET, SOCK_STREAM, 0));
    DO(CONNECT(client, address));
    int server = DO(accept(one, (struct sockaddr *)&seen, &length));
    CHECK(length == sizeof seen && seen.sin_family == AF_INET);
    length = sizeof own;
    DO(getsockname(client, (struct sockaddr *)&own, &length));
    CHECK(seen.sin_port == own.sin_port && seen.sin_addr.s_addr == own.sin_addr.s_addr && own.sin_port != 0);
    CHECK(ntohl(own.sin_addr.s_addr) == INADDR_LOOPBACK);
    length = sizeof far;
    DO(getpeername(client, (struct sockaddr *)&far, &length));
    CHECK(ntohs(far.sin_port) == port && ntohl(far.sin_addr.s_addr) == INADDR_LOOPBACK);
    DO(getpeername(server, (struct sockaddr *)&far, &length));
    CHECK(far.sin_port == own.sin_port);
    DO(getsockname(server, (struct sockaddr *)&far, &length));
    CHECK(ntohs(far.sin_port) == port);
}

CASE(nobody_listens_is_econnrefused) {
    int port, one = listener(&port), fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    close(one);
    In address = in("127.0.0.1", port);
    FAILS(ECONNREFUSED, CONNECT(fd, address));
    In6 other = in6("::1", port);
    fd = DO(socket(AF_INET6, SOCK_STREAM, 0));
    FAILS(ECONNREFUSED, CONNECT(fd, other));
}

CASE(bound_but_not_listening_is_econnrefused) {
    int one = DO(socket(AF_INET, SOCK_STREAM, 0)), fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    In address = in("127.0.0.1", 0);
    DO(BIND(one, address));
    address = in("127.0.0.1", port_of(one));
    FAILS(ECONNREFUSED, CONNECT(fd, address));
}

CASE(a_port_in_use_is_eaddrinuse_and_free_after_close) {
    int port, one = listener(&port);
    int two = DO(socket(AF_INET, SOCK_STREAM, 0));
    In address = in("127.0.0.1", port), any = in("0.0.0.0", port);
    FAILS(EADDRINUSE, BIND(two, address));
    FAILS(EADDRINUSE, BIND(two, any));
    close(one);
    CHECK(BIND(two, address) == 0);
}

CASE(an_address_of_another_machine_is_eaddrnotavail) {
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    In address = in("192.0.2.7", 0);
    FAILS(EADDRNOTAVAIL, BIND(fd, address));
}

CASE(a_wrong_family_or_length_of_an_address_is_refused) {
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0)), six = DO(socket(AF_INET6, SOCK_STREAM, 0));
    In address = in("127.0.0.1", 1);
    In6 other = in6("::1", 1);
    FAILS(EINVAL, connect(fd, (void *)&address, 8));
    FAILS(EINVAL, bind(fd, (void *)&address, 8));
    FAILS(EAFNOSUPPORT, CONNECT(fd, other));
    FAILS(EAFNOSUPPORT, BIND(fd, other));
    FAILS(EINVAL, connect(six, (void *)&other, 20));
    FAILS(EINVAL, connect(fd, (void *)&address, -1));
    FAILS(EFAULT, connect(fd, (void *)8, 16));
    FAILS(ENOTSOCK, CONNECT(DO(open(".", O_RDONLY)), address));
    FAILS(EBADF, CONNECT(1000, address));
}

CASE(any_address_is_reached_on_every_loopback_address) {
    int one = DO(socket(AF_INET, SOCK_STREAM, 0));
    In address = in("0.0.0.0", 0);
    DO(BIND(one, address));
    DO(listen(one, 4));
    int port = port_of(one);
    const char *names[] = {"127.0.0.1", "127.1.2.3", "0.0.0.0"};
    for (int i = 0; i < 3; i++) {
        int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
        In to = in(names[i], port);
        CHECK(CONNECT(fd, to) == 0);
        CHECK(accept(one, NULL, NULL) >= 0);
    }
}

CASE(addresses_of_127_are_apart) {
    int one = DO(socket(AF_INET, SOCK_STREAM, 0)), two = DO(socket(AF_INET, SOCK_STREAM, 0)), fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    In first = in("127.0.0.2", 0);
    DO(BIND(one, first));
    int port = port_of(one);
    In second = in("127.0.0.3", port), third = in("127.0.0.4", port);
    DO(listen(one, 1));
    CHECK(BIND(two, second) == 0);
    DO(listen(two, 1));
    FAILS(ECONNREFUSED, CONNECT(fd, third));
}

CASE(ipv6_reaches_ipv6_and_a_dual_socket_both) {
    int one = DO(socket(AF_INET6, SOCK_STREAM, 0));
    In6 any = in6("::", 0), seen;
    DO(BIND(one, any));
    DO(listen(one, 4));
    int port = port_of(one);
    In6 to = in6("::1", port);
    int fd = DO(socket(AF_INET6, SOCK_STREAM, 0));
    CHECK(CONNECT(fd, to) == 0);
    In four = in("127.0.0.1", port);
    int old = DO(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(CONNECT(old, four) == 0);
    In6 mapped = in6("::ffff:127.0.0.1", port);
    int third = DO(socket(AF_INET6, SOCK_STREAM, 0));
    CHECK(CONNECT(third, mapped) == 0);
    for (int i = 0; i < 3; i++) {
        socklen_t length = sizeof seen;
        CHECK(accept(one, (struct sockaddr *)&seen, &length) >= 0);
        char text[64];
        TEXT("%u %d %s", length, seen.sin6_family, inet_ntop(AF_INET6, &seen.sin6_addr, text, sizeof text));
    }
}

CASE(an_ipv6_only_socket_leaves_the_port_to_ipv4) {
    int six = DO(socket(AF_INET6, SOCK_STREAM, 0)), four = DO(socket(AF_INET, SOCK_STREAM, 0)), yes = 1;
    DO(setsockopt(six, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes));
    In6 any = in6("::", 0);
    DO(BIND(six, any));
    DO(listen(six, 1));
    In other = in("0.0.0.0", port_of(six));
    CHECK(BIND(four, other) == 0);
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    In to = in("127.0.0.1", port_of(six));
    FAILS(ECONNREFUSED, CONNECT(fd, to));
}

CASE(listening_without_a_name_chooses_a_port) {
    int one = DO(socket(AF_INET, SOCK_STREAM, 0));
    DO(listen(one, 1));
    In to = in("127.0.0.1", port_of(one));
    CHECK(port_of(one) != 0);
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(CONNECT(fd, to) == 0);
}

CASE(half_a_close_ends_one_direction) {
    int ends[2];
    char text[8];
    pair(ends);
    CHECK(shutdown(ends[0], SHUT_WR) == 0);
    CHECK(read(ends[1], text, 8) == 0);
    CHECK(write(ends[1], "late", 4) == 4);
    CHECK(read(ends[0], text, 8) == 4);
    signal(SIGPIPE, SIG_IGN);
    FAILS(EPIPE, write(ends[0], "x", 1));
    FAILS(EPIPE, send(ends[0], "x", 1, MSG_NOSIGNAL));
    signal(SIGPIPE, SIG_DFL);
    int alone = DO(socket(AF_INET, SOCK_STREAM, 0));
    FAILS(ENOTCONN, shutdown(alone, SHUT_RDWR));
}

CASE(the_end_of_the_other_side_is_seen_by_poll) {
    int ends[2];
    char byte;
    pair(ends);
    CHECK(readable(ends[0], 0) == 0);
    close(ends[1]);
    struct pollfd polled = {ends[0], POLLIN | POLLRDHUP, 0};
    CHECK(poll(&polled, 1, 1000) == 1 && polled.revents & POLLRDHUP);
    CHECK(read(ends[0], &byte, 1) == 0);
}

CASE(peeking_leaves_the_bytes) {
    int ends[2], waiting = 0;
    char text[8];
    pair(ends);
    DO(write(ends[0], "abcdef", 6));
    CHECK(recv(ends[1], text, 3, MSG_PEEK) == 3 && !memcmp(text, "abc", 3));
    CHECK(ioctl(ends[1], FIONREAD, &waiting) == 0 && waiting == 6);
    CHECK(recv(ends[1], text, 6, MSG_WAITALL) == 6);
    FAILS(EAGAIN, recv(ends[1], text, 1, MSG_DONTWAIT));
}

CASE(a_nonblocking_accept_answers_eagain_until_somebody_comes) {
    int port, one = listener(&port);
    DO(fcntl(one, F_SETFL, O_NONBLOCK));
    FAILS(EAGAIN, accept(one, NULL, NULL));
    In to = in("127.0.0.1", port);
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    DO(CONNECT(fd, to));
    CHECK(readable(one, 1000) == 1);
    int made = accept4(one, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(made >= 0);
    CHECK(fcntl(made, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(made, F_GETFD) == FD_CLOEXEC);
    FAILS(EINVAL, accept(fd, NULL, NULL));
    FAILS(EINVAL, accept4(one, NULL, NULL, 1));
}

CASE(a_nonblocking_connect_ends_with_epollout_and_no_error) {
    int port, one = listener(&port), error = -1;
    int fd = DO(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)), set = DO(epoll_create1(0));
    struct epoll_event event = {EPOLLOUT | EPOLLET, {.u32 = 7}};
    DO(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    In to = in("127.0.0.1", port);
    int result = CONNECT(fd, to);
    int started = result == 0 || errno == EINPROGRESS;
    CHECK(started);
    struct pollfd polled = {fd, POLLOUT, 0};
    CHECK(poll(&polled, 1, 1000) == 1 && polled.revents == POLLOUT);
    socklen_t length = sizeof error;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0);
    CHECK(epoll_wait(set, &event, 1, 1000) == 1 && event.data.u32 == 7);
    CHECK(accept(one, NULL, NULL) >= 0);
}

CASE(a_connected_socket_connects_no_more) {
    int ends[2], port, one = listener(&port);
    pair(ends);
    In to = in("127.0.0.1", port);
    FAILS(EISCONN, CONNECT(ends[0], to));
    FAILS(EINVAL, BIND(ends[0], to));
    FAILS(EOPNOTSUPP, accept(DO(socket(AF_INET, SOCK_DGRAM, 0)), NULL, NULL));
    FAILS(ENOTCONN, recv(DO(socket(AF_INET, SOCK_STREAM, 0)), &to, 1, 0));
    In far;
    socklen_t length = sizeof far;
    FAILS(ENOTCONN, getpeername(one, (struct sockaddr *)&far, &length));
}

CASE(unread_bytes_reset_the_connection) {
    int ends[2];
    char byte;
    pair(ends);
    DO(write(ends[0], "unread", 6));
    nap(10);
    close(ends[1]);
    FAILS(ECONNRESET, read(ends[0], &byte, 1));
}

CASE(options_say_what_was_set) {
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0)), yes = 1, value = 0;
    socklen_t length = sizeof value;
    const int options[][2] = {{SOL_SOCKET, SO_REUSEADDR}, {SOL_SOCKET, SO_KEEPALIVE}, {SOL_SOCKET, SO_REUSEPORT}, {IPPROTO_TCP, TCP_NODELAY}};
    for (int i = 0; i < 4; i++) {
        CHECK(setsockopt(fd, options[i][0], options[i][1], &yes, sizeof yes) == 0);
        value = 0;
        CHECK(getsockopt(fd, options[i][0], options[i][1], &value, &length) == 0 && value == 1);
    }
    CHECK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length) == 0 && value == SOCK_STREAM);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_INET);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &length) == 0 && value == IPPROTO_TCP);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value == 0);
    DO(listen(fd, 1));
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value == 1);
}

CASE(a_receive_timeout_ends_a_read_with_eagain) {
    int ends[2];
    char byte;
    pair(ends);
    struct timeval patience = {0, 20000};
    DO(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    FAILS(EAGAIN, read(ends[0], &byte, 1));
}

CASE(a_reused_port_has_two_listeners) {
    int one = DO(socket(AF_INET, SOCK_STREAM, 0)), two = DO(socket(AF_INET, SOCK_STREAM, 0)), yes = 1;
    DO(setsockopt(one, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes));
    DO(setsockopt(two, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes));
    In address = in("127.0.0.1", 0);
    DO(BIND(one, address));
    address = in("127.0.0.1", port_of(one));
    CHECK(BIND(two, address) == 0);
    CHECK(listen(one, 1) == 0 && listen(two, 1) == 0);
}

CASE(tcp_carries_no_descriptors) {
    int ends[2];
    pair(ends);
    char byte = 'x', space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    CHECK(sendmsg(ends[0], &message, 0) == 1);
    message.msg_controllen = sizeof space;
    CHECK(recvmsg(ends[1], &message, 0) == 1 && message.msg_controllen == 0);
}

static void *echo(void *argument) {
    int one = *(int *)argument, made;
    static char block[65536];
    while ((made = accept(one, NULL, NULL)) >= 0) {
        long step;
        while ((step = read(made, block, sizeof block)) > 0)
            for (long done = 0; done < step;) done += write(made, block + done, step - done);
        close(made);
    }
    return NULL;
}

CASE(a_thread_answers_another_with_a_megabyte) {
    int port, one = listener(&port);
    pthread_t thread;
    DO(pthread_create(&thread, NULL, echo, &one) == 0 ? 0 : -1);
    In to = in("127.0.0.1", port);
    static char out[1 << 15], back[1 << 15];
    for (unsigned i = 0; i < sizeof out; i++) out[i] = i * 31;
    for (int round = 0; round < 32; round++) {
        int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
        DO(CONNECT(fd, to));
        CHECK(send(fd, out, sizeof out, 0) == sizeof out);
        CHECK(recv(fd, back, sizeof back, MSG_WAITALL) == sizeof back && !memcmp(out, back, sizeof out));
        close(fd);
    }
}

CASE(udp_tells_who_sent) {
    int port, other, one = udp(&port), two = udp(&other);
    In to = in("127.0.0.1", port), from;
    socklen_t length = sizeof from;
    char text[16];
    CHECK(sendto(two, "hello", 5, 0, (void *)&to, sizeof to) == 5);
    CHECK(recvfrom(one, text, sizeof text, 0, (void *)&from, &length) == 5 && !memcmp(text, "hello", 5));
    CHECK(ntohs(from.sin_port) == other && ntohl(from.sin_addr.s_addr) == INADDR_LOOPBACK && length == sizeof from);
    CHECK(sendto(one, "back", 4, 0, (void *)&from, length) == 4);
    CHECK(recv(two, text, sizeof text, 0) == 4);
}

CASE(udp_keeps_the_bounds_of_datagrams) {
    int port, one = udp(&port), two = DO(socket(AF_INET, SOCK_DGRAM, 0));
    In to = in("127.0.0.1", port);
    char text[16];
    DO(CONNECT(two, to));
    CHECK(send(two, "first", 5, 0) == 5 && write(two, "second", 6) == 6 && send(two, "", 0, 0) == 0);
    CHECK(recv(one, text, 3, 0) == 3);
    CHECK(recv(one, text, 3, MSG_TRUNC) == 6);
    CHECK(recv(one, text, 3, 0) == 0);
    FAILS(EAGAIN, recv(one, text, 3, MSG_DONTWAIT));
}

CASE(udp_without_a_name_gets_one_by_sending) {
    int port, one = udp(&port), two = DO(socket(AF_INET, SOCK_DGRAM, 0));
    In to = in("127.0.0.1", port);
    CHECK(port_of(two) == 0);
    CHECK(sendto(two, "x", 1, 0, (void *)&to, sizeof to) == 1);
    CHECK(port_of(two) != 0);
    CHECK(readable(one, 1000) == 1);
}

CASE(udp_to_nobody_is_lost) {
    int port, one = udp(&port), two = DO(socket(AF_INET, SOCK_DGRAM, 0));
    close(one);
    In to = in("127.0.0.1", port);
    CHECK(sendto(two, "x", 1, 0, (void *)&to, sizeof to) == 1);
    CHECK(CONNECT(two, to) == 0);
    int alone = DO(socket(AF_INET, SOCK_DGRAM, 0));
    FAILS(EDESTADDRREQ, send(alone, "x", 1, 0));
}

CASE(udp_carries_the_largest_datagram) {
    int port, one = udp(&port), two = DO(socket(AF_INET, SOCK_DGRAM, 0));
    In to = in("127.0.0.1", port);
    static char block[65507], back[65507];
    memset(block, 'u', sizeof block);
    CHECK(sendto(two, block, sizeof block, 0, (void *)&to, sizeof to) == sizeof block);
    CHECK(recv(one, back, sizeof back, 0) == sizeof back && back[65506] == 'u');
}

CASE(udp_sends_and_receives_many_messages_at_once) {
    int port, one = udp(&port), two = DO(socket(AF_INET, SOCK_DGRAM, 0));
    In to = in("127.0.0.1", port), from[4];
    char text[4][8] = {"one", "two", "three", "four"};
    struct iovec vectors[4];
    struct mmsghdr messages[4] = {0};
    for (int i = 0; i < 4; i++) {
        vectors[i] = (struct iovec){text[i], strlen(text[i])};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    CHECK(sendmmsg(two, messages, 4, 0) == 4 && messages[2].msg_len == 5);
    for (int i = 0; i < 4; i++) {
        vectors[i].iov_len = 8;
        messages[i].msg_hdr.msg_name = &from[i];
        messages[i].msg_hdr.msg_namelen = sizeof from[i];
    }
    CHECK(recvmmsg(one, messages, 4, MSG_WAITFORONE, NULL) == 4);
    CHECK(messages[3].msg_len == 4 && messages[3].msg_hdr.msg_namelen == sizeof(In));
    CHECK(ntohs(from[3].sin_port) == port_of(two));
}

CASE(a_unix_path_connects_and_is_a_file) {
    Un address, seen;
    struct stat stat_;
    socklen_t length = un(&address, "socket", 0), room = sizeof seen;
    int one = DO(socket(AF_UNIX, SOCK_STREAM, 0)), fd = DO(socket(AF_UNIX, SOCK_STREAM, 0));
    DO(bind(one, (void *)&address, length));
    CHECK(stat("socket", &stat_) == 0 && S_ISSOCK(stat_.st_mode));
    FAILS(ECONNREFUSED, connect(fd, (void *)&address, length));
    DO(listen(one, 2));
    CHECK(connect(fd, (void *)&address, length) == 0);
    int made = accept(one, (void *)&seen, &room);
    CHECK(made >= 0 && room == 2 && seen.sun_family == AF_UNIX);
    room = sizeof seen;
    CHECK(getpeername(fd, (void *)&seen, &room) == 0 && room == length && !strcmp(seen.sun_path, "socket"));
    CHECK(write(made, "x", 1) == 1 && readable(fd, 1000) == 1);
    int two = DO(socket(AF_UNIX, SOCK_STREAM, 0));
    FAILS(EADDRINUSE, bind(two, (void *)&address, length));
    CHECK(unlink("socket") == 0);
    FAILS(ENOENT, connect(two, (void *)&address, length));
    CHECK(bind(two, (void *)&address, length) == 0);
}

CASE(a_socket_file_without_its_socket_refuses) {
    Un address;
    socklen_t length = un(&address, "left", 0);
    int one = DO(socket(AF_UNIX, SOCK_STREAM, 0)), fd = DO(socket(AF_UNIX, SOCK_STREAM, 0));
    DO(bind(one, (void *)&address, length));
    DO(listen(one, 2));
    close(one);
    FAILS(ECONNREFUSED, connect(fd, (void *)&address, length));
    put("plain", "no socket");
    length = un(&address, "plain", 0);
    FAILS(ECONNREFUSED, connect(fd, (void *)&address, length));
}

CASE(a_renamed_socket_file_is_still_its_socket) {
    Un address;
    socklen_t length = un(&address, "before", 0);
    int one = DO(socket(AF_UNIX, SOCK_STREAM, 0)), fd = DO(socket(AF_UNIX, SOCK_STREAM, 0));
    DO(bind(one, (void *)&address, length));
    DO(listen(one, 2));
    DO(rename("before", "after"));
    FAILS(ENOENT, connect(fd, (void *)&address, length));
    length = un(&address, "after", 0);
    CHECK(connect(fd, (void *)&address, length) == 0);
}

CASE(an_abstract_name_is_free_when_its_socket_is_gone) {
    Un address, seen;
    socklen_t length = un(&address, "case-of-an-abstract-name", 1), room = sizeof seen;
    int one = DO(socket(AF_UNIX, SOCK_STREAM, 0)), two = DO(socket(AF_UNIX, SOCK_STREAM, 0)), fd = DO(socket(AF_UNIX, SOCK_STREAM, 0));
    FAILS(ECONNREFUSED, connect(fd, (void *)&address, length));
    DO(bind(one, (void *)&address, length));
    FAILS(EADDRINUSE, bind(two, (void *)&address, length));
    DO(listen(one, 1));
    CHECK(connect(fd, (void *)&address, length) == 0);
    CHECK(getsockname(one, (void *)&seen, &room) == 0 && room == length && !memcmp(&seen, &address, length));
    close(one);
    CHECK(bind(two, (void *)&address, length) == 0);
    int packets = DO(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    CHECK(bind(packets, (void *)&address, length) == 0);
}

CASE(a_unix_socket_may_be_given_a_name) {
    int one = DO(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr family = {.sa_family = AF_UNIX};
    Un seen;
    socklen_t room = sizeof seen;
    CHECK(bind(one, &family, sizeof(sa_family_t)) == 0);
    CHECK(getsockname(one, (void *)&seen, &room) == 0 && room == 8 && seen.sun_path[0] == 0);
}

CASE(unix_datagrams_tell_who_sent) {
    Un first, second, from;
    socklen_t length = un(&first, "first", 0), other = un(&second, "second-of-the-datagrams", 1), room = sizeof from;
    int one = DO(socket(AF_UNIX, SOCK_DGRAM, 0)), two = DO(socket(AF_UNIX, SOCK_DGRAM, 0));
    char text[8];
    DO(bind(one, (void *)&first, length));
    DO(bind(two, (void *)&second, other));
    CHECK(sendto(two, "hi", 2, 0, (void *)&first, length) == 2);
    CHECK(recvfrom(one, text, 8, 0, (void *)&from, &room) == 2);
    CHECK(room == other && !memcmp(&from, &second, other));
    CHECK(sendto(one, "ho", 2, 0, (void *)&from, room) == 2);
    room = sizeof from;
    CHECK(recvfrom(two, text, 8, 0, (void *)&from, &room) == 2 && !strcmp(from.sun_path, "first"));
    FAILS(EPROTOTYPE, connect(DO(socket(AF_UNIX, SOCK_STREAM, 0)), (void *)&first, length));
    close(one);
    FAILS(ECONNREFUSED, sendto(two, "hi", 2, 0, (void *)&first, length));
}

CASE(sequenced_packets_keep_their_bounds) {
    Un address;
    socklen_t length = un(&address, "case-of-packets", 1);
    int one = DO(socket(AF_UNIX, SOCK_SEQPACKET, 0)), fd = DO(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    char text[8];
    DO(bind(one, (void *)&address, length));
    DO(listen(one, 1));
    DO(connect(fd, (void *)&address, length));
    int made = DO(accept(one, NULL, NULL));
    CHECK(send(fd, "abc", 3, 0) == 3 && send(fd, "de", 2, 0) == 2);
    CHECK(recv(made, text, 8, 0) == 3 && recv(made, text, 8, 0) == 2);
}

CASE(a_descriptor_travels_over_a_unix_socket) {
    int ends[2], pipes[2], given = -1;
    DO(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    DO(pipe(pipes));
    char byte = 'x', space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &pipes[1], sizeof(int));
    CHECK(sendmsg(ends[0], &message, 0) == 1);
    memset(space, 0, sizeof space);
    message.msg_controllen = sizeof space;
    CHECK(recvmsg(ends[1], &message, 0) == 1);
    memcpy(&given, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof given);
    CHECK(write(given, "through", 7) == 7 && readable(pipes[0], 1000) == 1);
}

CASE(a_tcp_socket_keeps_its_nature_through_dup) {
    int port, one = listener(&port), value = 0;
    socklen_t length = sizeof value;
    int copy = DO(dup(one));
    close(one);
    CHECK(port_of(copy) == port);
    CHECK(getsockopt(copy, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_INET);
    In to = in("127.0.0.1", port);
    int fd = DO(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(CONNECT(fd, to) == 0);
    CHECK(accept(copy, NULL, NULL) >= 0);
}

CASE(unknown_families_and_types_are_refused) {
    FAILS(EAFNOSUPPORT, socket(77, SOCK_STREAM, 0));
    FAILS(EPROTONOSUPPORT, socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    FAILS(EPROTONOSUPPORT, socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
    FAILS(EINVAL, socket(AF_INET, SOCK_STREAM | 0x100, 0));
    FAILS(ESOCKTNOSUPPORT, socket(AF_UNIX, SOCK_RDM, 0));
}

static void has_address(int fd, const char *ip) {
    In6 address;
    socklen_t length = sizeof address;
    char text[INET6_ADDRSTRLEN];
    DO(getsockname(fd, (struct sockaddr *)&address, &length));
    if (address.sin6_family == AF_INET6)
        inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text);
    else
        inet_ntop(AF_INET, &((In *)&address)->sin_addr, text, sizeof text);
    if (strcmp(text, ip) != 0) TEXT("FAILED %s, not %s", text, ip);
    TEXT("%s", text);
}

// What getaddrinfo does to sort addresses: one socket, and a peer of either family after the other. Nobody is there.
CASE(the_address_that_connect_chose_goes_with_the_peer) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    In6 six = in6("::1", 9), any6 = in6("::", 9);
    In four = in("127.0.0.1", 9), any4 = in("0.0.0.0", 9);
    int fd = DO(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_IP));
    has_address(fd, "::");
    for (int i = 0; i < 2; i++) {
        CHECK(CONNECT(fd, six) == 0);
        has_address(fd, "::1");
        CHECK(CONNECT(fd, none) == 0);
        has_address(fd, "::");
        CHECK(CONNECT(fd, four) == 0);
        has_address(fd, "::ffff:127.0.0.1");
        CHECK(CONNECT(fd, none) == 0);
        CHECK(CONNECT(fd, any6) == 0);
        has_address(fd, "::1");
        CHECK(CONNECT(fd, none) == 0);
        CHECK(CONNECT(fd, any4) == 0);
        has_address(fd, "::ffff:127.0.0.1");
        CHECK(CONNECT(fd, none) == 0);
    }
    int other = DO(socket(AF_INET, SOCK_DGRAM, 0));
    CHECK(CONNECT(other, four) == 0);
    has_address(other, "127.0.0.1");
    CHECK(CONNECT(other, none) == 0);
    has_address(other, "0.0.0.0");
}

CASE(the_address_that_bind_gave_stays_without_a_peer) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    int port, one = udp(&port);
    In to = in("127.0.0.1", port), own = in("127.0.0.1", 0);
    int fd = DO(socket(AF_INET, SOCK_DGRAM, 0));
    CHECK(BIND(fd, own) == 0);
    CHECK(CONNECT(fd, to) == 0 && CONNECT(fd, none) == 0);
    has_address(fd, "127.0.0.1");
    FAILS(EDESTADDRREQ, send(fd, "x", 1, 0));
    CHECK(CONNECT(fd, to) == 0 && send(fd, "x", 1, 0) == 1);
    char text[4];
    CHECK(recv(one, text, 4, 0) == 1);
}

CASE(one_ipv6_socket_sends_to_both_families) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    int port, one = udp(&port);
    In to = in("127.0.0.1", port), from;
    In6 mapped = in6("::ffff:127.0.0.1", port), six = in6("::1", 0);
    int two = DO(socket(AF_INET6, SOCK_DGRAM, 0)), fd = DO(socket(AF_INET6, SOCK_DGRAM, 0));
    CHECK(BIND(two, six) == 0);
    six = in6("::1", port_of(two));
    char text[8], ip[INET_ADDRSTRLEN];
    socklen_t length = sizeof from;
    CHECK(CONNECT(fd, six) == 0 && send(fd, "six", 3, 0) == 3);
    CHECK(recv(two, text, 8, 0) == 3 && !memcmp(text, "six", 3));
    CHECK(CONNECT(fd, none) == 0);
    CHECK(CONNECT(fd, to) == 0 && send(fd, "four", 4, 0) == 4);
    CHECK(recvfrom(one, text, 8, 0, (void *)&from, &length) == 4 && !memcmp(text, "four", 4));
    CHECK(from.sin_family == AF_INET && ntohs(from.sin_port) == port_of(fd));
    TEXT("%s", inet_ntop(AF_INET, &from.sin_addr, ip, sizeof ip));
    CHECK(sendto(one, "back", 4, 0, (void *)&from, sizeof from) == 4);
    CHECK(recv(fd, text, 8, 0) == 4 && !memcmp(text, "back", 4));
    CHECK(CONNECT(fd, none) == 0);
    CHECK(sendto(fd, "again", 5, 0, (void *)&mapped, sizeof mapped) == 5);
    length = sizeof from;
    CHECK(recvfrom(one, text, 8, 0, (void *)&from, &length) == 5);
    TEXT("%s", inet_ntop(AF_INET, &from.sin_addr, ip, sizeof ip));
}
