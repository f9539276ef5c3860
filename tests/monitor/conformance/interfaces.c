// The loopback interface: netlink(7), rtnetlink(7), netdevice(7), getifaddrs(3), if_nameindex(3). A machine may have others, too: nothing
// here depends on that.
#include "case.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

typedef struct sockaddr_nl Nl;

static int netlink(int flags) {
    return DO(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | flags, NETLINK_ROUTE));
}

struct asked {
    struct nlmsghdr head;
    struct ifinfomsg link;
    char more[32];
};

static struct asked asks(int type, int flags) {
    struct asked asked = {.head = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = 7}};
    asked.head.nlmsg_len = NLMSG_LENGTH(sizeof asked.link);
    return asked;
}

static int sent(int fd, struct asked *asked) {
    Nl kernel = {.nl_family = AF_NETLINK};
    return sendto(fd, asked, asked->head.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof kernel) == asked->head.nlmsg_len;
}

static char room[1 << 16] __attribute__((aligned(8)));

// Receives one datagram and gives its first message.
static struct nlmsghdr *answer(int fd) {
    memset(room, 0, sizeof room);
    CHECK(recv(fd, room, sizeof room, 0) >= (long)sizeof(struct nlmsghdr));
    return (struct nlmsghdr *)room;
}

static int error_of(struct nlmsghdr *message) {
    return message->nlmsg_type == NLMSG_ERROR ? ((struct nlmsgerr *)NLMSG_DATA(message))->error : 1;
}

static unsigned port_of(int fd) {
    Nl own;
    socklen_t length = sizeof own;
    CHECK(getsockname(fd, (struct sockaddr *)&own, &length) == 0 && length == sizeof own && own.nl_family == AF_NETLINK);
    return own.nl_pid;
}

CASE(getifaddrs_has_lo_with_its_addresses) {
    struct ifaddrs *list, *at;
    int four = 0, six = 0, link = 0;
    CHECK(getifaddrs(&list) == 0);
    for (at = list; at; at = at->ifa_next) {
        if (strcmp(at->ifa_name, "lo") || !at->ifa_addr) continue;
        CHECK((at->ifa_flags & (IFF_UP | IFF_LOOPBACK | IFF_RUNNING | IFF_BROADCAST)) == (IFF_UP | IFF_LOOPBACK | IFF_RUNNING));
        if (at->ifa_addr->sa_family == AF_PACKET) link++;
        if (at->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in *own = (void *)at->ifa_addr, *mask = (void *)at->ifa_netmask;
            four += own->sin_addr.s_addr == htonl(INADDR_LOOPBACK) && mask->sin_addr.s_addr == htonl(0xff000000);
        }
        if (at->ifa_addr->sa_family == AF_INET6)
            six += IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)at->ifa_addr)->sin6_addr);
    }
    CHECK(link == 1 && four == 1 && six == 1);
    freeifaddrs(list);
}

CASE(lo_is_the_first_index) {
    struct if_nameindex *list = if_nameindex();
    CHECK(list && list[0].if_index == 1 && !strcmp(list[0].if_name, "lo"));
    if_freenameindex(list);
    char name[IF_NAMESIZE];
    CHECK(if_nametoindex("lo") == 1);
    CHECK(if_indextoname(1, name) && !strcmp(name, "lo"));
    CHECK(if_nametoindex("nothere0") == 0 && errno == ENODEV);
    CHECK(!if_indextoname(1 << 30, name) && errno == ENXIO);
}

CASE(ioctls_tell_of_lo) {
    int families[] = {AF_INET, AF_INET6, AF_UNIX};
    for (int i = 0; i < 3; i++) {
        int fd = DO(socket(families[i], SOCK_DGRAM, 0));
        struct ifreq asked = {.ifr_name = "lo"};
        CHECK(ioctl(fd, SIOCGIFFLAGS, &asked) == 0 && (asked.ifr_flags & (IFF_UP | IFF_LOOPBACK)) == (IFF_UP | IFF_LOOPBACK));
        CHECK(ioctl(fd, SIOCGIFMTU, &asked) == 0 && asked.ifr_mtu == 65536);
        CHECK(ioctl(fd, SIOCGIFHWADDR, &asked) == 0 && asked.ifr_hwaddr.sa_family == ARPHRD_LOOPBACK);
        CHECK(ioctl(fd, SIOCGIFINDEX, &asked) == 0 && asked.ifr_ifindex == 1);
        CHECK(ioctl(fd, SIOCGIFNAME, &asked) == 0 && !strcmp(asked.ifr_name, "lo"));
        strcpy(asked.ifr_name, "nothere0");
        FAILS(ENODEV, ioctl(fd, SIOCGIFFLAGS, &asked));
        FAILS(ENODEV, ioctl(fd, SIOCGIFMTU, &asked));
        asked.ifr_ifindex = 1 << 30;
        FAILS(ENODEV, ioctl(fd, SIOCGIFNAME, &asked));
        FAILS(EFAULT, ioctl(fd, SIOCGIFFLAGS, 8));
    }
    int fd = DO(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq asked = {.ifr_name = "lo"};
    struct sockaddr_in *address = (void *)&asked.ifr_addr;
    CHECK(ioctl(fd, SIOCGIFADDR, &asked) == 0 && address->sin_family == AF_INET && address->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK(ioctl(fd, SIOCGIFNETMASK, &asked) == 0 && address->sin_addr.s_addr == htonl(0xff000000));
    CHECK(ioctl(fd, SIOCGIFBRDADDR, &asked) == 0 && address->sin_addr.s_addr == 0);
    int file = DO(open("file", O_RDWR | O_CREAT, 0600));
    FAILS(ENOTTY, ioctl(file, SIOCGIFFLAGS, &asked));
    FAILS(EBADF, ioctl(99, SIOCGIFFLAGS, &asked));
}

CASE(interfaces_are_listed_as_far_as_there_is_room) {
    int fd = DO(socket(AF_INET, SOCK_DGRAM, 0)), found = 0;
    struct ifreq listed[64];
    struct ifconf list = {.ifc_len = 0};
    CHECK(ioctl(fd, SIOCGIFCONF, &list) == 0 && list.ifc_len >= (int)sizeof(struct ifreq));
    list = (struct ifconf){.ifc_len = sizeof listed, .ifc_req = listed};
    CHECK(ioctl(fd, SIOCGIFCONF, &list) == 0);
    for (unsigned i = 0; i < list.ifc_len / sizeof(struct ifreq); i++)
        found += !strcmp(listed[i].ifr_name, "lo") && ((struct sockaddr_in *)&listed[i].ifr_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK);
    CHECK(found == 1);
    list.ifc_len = sizeof(struct ifreq) - 1;
    CHECK(ioctl(fd, SIOCGIFCONF, &list) == 0 && list.ifc_len == 0);
    list.ifc_len = sizeof listed;
    list.ifc_buf = (char *)8;
    FAILS(EFAULT, ioctl(fd, SIOCGIFCONF, &list));
}

CASE(a_netlink_socket_has_a_port) {
    int one = netlink(0), two = netlink(SOCK_NONBLOCK), value;
    socklen_t length = sizeof value;
    Nl any = {.nl_family = AF_NETLINK};
    CHECK(port_of(one) == 0);
    CHECK(bind(one, (struct sockaddr *)&any, sizeof any) == 0);
    CHECK(bind(two, (struct sockaddr *)&any, sizeof any) == 0);
    CHECK(port_of(one) && port_of(two) && port_of(one) != port_of(two));
    Nl own = {.nl_family = AF_NETLINK, .nl_pid = port_of(one)};
    CHECK(bind(one, (struct sockaddr *)&own, sizeof own) == 0);
    int three = netlink(0);
    FAILS(EADDRINUSE, bind(three, (struct sockaddr *)&own, sizeof own));
    own.nl_pid ^= 1 << 20;
    FAILS(EINVAL, bind(one, (struct sockaddr *)&own, sizeof own));
    FAILS(EINVAL, bind(three, (struct sockaddr *)&own, sizeof own - 1));
    CHECK(getsockopt(one, SOL_SOCKET, SO_TYPE, &value, &length) == 0 && value == SOCK_RAW);
    CHECK(getsockopt(one, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_NETLINK);
    CHECK(getsockopt(one, SOL_SOCKET, SO_PROTOCOL, &value, &length) == 0 && value == NETLINK_ROUTE);
    value = 1;
    CHECK(setsockopt(one, SOL_NETLINK, NETLINK_EXT_ACK, &value, sizeof value) == 0);
    FAILS(EOPNOTSUPP, listen(one, 1));
    FAILS(EOPNOTSUPP, accept(one, NULL, NULL));
    FAILS(EOPNOTSUPP, shutdown(one, SHUT_RDWR));
    FAILS(ESOCKTNOSUPPORT, socket(AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE));
    FAILS(EPROTONOSUPPORT, socket(AF_NETLINK, SOCK_RAW, 31));
}

CASE(a_dump_comes_from_the_kernel_and_ends) {
    int fd = netlink(0), found = 0, done = 0;
    struct asked asked = asks(RTM_GETLINK, NLM_F_DUMP);
    CHECK(sent(fd, &asked));
    while (!done) {
        Nl from;
        struct iovec part = {room, sizeof room};
        struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1};
        long length = recvmsg(fd, &message, 0);
        CHECK(length > 0 && message.msg_namelen == sizeof from && from.nl_family == AF_NETLINK && from.nl_pid == 0);
        if (length <= 0) return;
        for (struct nlmsghdr *at = (void *)room; NLMSG_OK(at, length); at = NLMSG_NEXT(at, length)) {
            CHECK(at->nlmsg_seq == 7 && at->nlmsg_pid == port_of(fd) && at->nlmsg_flags & NLM_F_MULTI);
            done |= at->nlmsg_type == NLMSG_DONE;
            found += at->nlmsg_type == RTM_NEWLINK && ((struct ifinfomsg *)NLMSG_DATA(at))->ifi_index == 1;
        }
    }
    CHECK(found == 1);
}

CASE(one_link_is_asked_for) {
    int fd = netlink(0);
    struct asked asked = asks(RTM_GETLINK, 0);
    asked.link.ifi_index = 1;
    CHECK(sent(fd, &asked));
    CHECK(answer(fd)->nlmsg_type == RTM_NEWLINK);
    asked.link.ifi_index = 1 << 30;
    CHECK(sent(fd, &asked));
    CHECK(error_of(answer(fd)) == -ENODEV);
    asked.link.ifi_index = 0;
    struct rtattr *name = (void *)asked.more;
    *name = (struct rtattr){.rta_len = RTA_LENGTH(3), .rta_type = IFLA_IFNAME};
    strcpy(RTA_DATA(name), "lo");
    asked.head.nlmsg_len += RTA_SPACE(3);
    CHECK(sent(fd, &asked));
    CHECK(answer(fd)->nlmsg_type == RTM_NEWLINK);
}

CASE(readiness_and_inheritance_are_the_kernels) {
    int fd = netlink(0), set = DO(epoll_create1(0)), status;
    struct pollfd polled = {.fd = fd, .events = POLLIN | POLLOUT};
    struct epoll_event event = {.events = EPOLLIN};
    struct asked asked = asks(RTM_GETLINK, 0);
    asked.link.ifi_index = 1;
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    CHECK(poll(&polled, 1, 0) == 1 && polled.revents == POLLOUT);
    CHECK(epoll_wait(set, &event, 1, 0) == 0);
    CHECK(write(fd, &asked, asked.head.nlmsg_len) == asked.head.nlmsg_len);
    CHECK(poll(&polled, 1, 1000) == 1 && polled.revents & POLLIN);
    CHECK(epoll_wait(set, &event, 1, 1000) == 1);
    int copy = DO(dup(fd));
    long length = recv(copy, room, 1, MSG_PEEK | MSG_TRUNC);
    pid_t child = DO(fork());
    if (!child) _exit(recv(copy, room, sizeof room, 0) == length && ((struct nlmsghdr *)room)->nlmsg_type == RTM_NEWLINK);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 1);
    CHECK(poll(&polled, 1, 0) == 1 && polled.revents == POLLOUT);
    FAILS(EAGAIN, recv(fd, room, sizeof room, MSG_DONTWAIT));
}

CASE(what_is_no_message_is_not_answered) {
    int fd = netlink(SOCK_NONBLOCK);
    struct asked asked = asks(RTM_GETLINK, NLM_F_DUMP);
    CHECK(send(fd, &asked, 10, 0) == 10);
    CHECK(send(fd, &asked, 16, 0) == 16);
    unsigned lengths[] = {0, 1, 15, 4096, 0x7fffffff, 0xffffffff};
    for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        asked.head.nlmsg_len = lengths[i];
        CHECK(send(fd, &asked, 32, 0) == 32);
    }
    FAILS(EAGAIN, recv(fd, room, sizeof room, 0));
    FAILS(EFAULT, send(fd, (void *)8, 32, 0));
    // After that it is as before.
    asked = asks(NLMSG_NOOP, NLM_F_ACK);
    CHECK(sent(fd, &asked));
    CHECK(error_of(answer(fd)) == 0);
    asked = asks(4000, 0);
    CHECK(sent(fd, &asked));
    CHECK(error_of(answer(fd)) == -EOPNOTSUPP);
    Nl wrong = {.nl_family = AF_INET};
    FAILS(EINVAL, sendto(fd, &asked, 32, 0, (struct sockaddr *)&wrong, sizeof wrong));
    wrong.nl_family = AF_NETLINK;
    FAILS(EINVAL, sendto(fd, &asked, 32, 0, (struct sockaddr *)&wrong, sizeof wrong - 1));
}

CASE(who_has_no_privilege_changes_nothing) {
    int status;
    pid_t child = DO(fork());
    if (!child) {
        // Who has none already is told that it is not allowed.
        if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)) errno = 0;
        int fd = netlink(0), types[] = {RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE};
        for (unsigned i = 0; i < sizeof types / sizeof *types; i++) {
            struct asked asked = asks(types[i], NLM_F_ACK);
            asked.link.ifi_index = 1 << 30;
            struct nlmsghdr *told = sent(fd, &asked) ? answer(fd) : NULL;
            if (!told || error_of(told) != -EPERM) _exit(i + 1);
        }
        Nl other = {.nl_family = AF_NETLINK, .nl_pid = 1};
        if (sendto(fd, room, 32, 0, (struct sockaddr *)&other, sizeof other) != -1 || errno != EPERM) _exit(100);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

CASE(proc_tells_of_lo) {
    char *text = content("/proc/net/dev");
    CHECK(text && strstr(text, "    lo:"));
    text = content("/proc/self/net/if_inet6");
    CHECK(text && strstr(text, "00000000000000000000000000000001 01 80 10 80       lo\n"));
    const char *tables[] = {"tcp", "tcp6", "udp", "udp6", "unix", "route"};
    for (int i = 0; i < 6; i++) {
        char path[64];
        sprintf(path, "/proc/net/%s", tables[i]);
        text = content(path);
        CHECK(text);
        if (text) {
            text[12] = 0;
            TEXT("%s", text);
        }
    }
    text = content("/sys/class/net/lo/mtu");
    CHECK(text && !strcmp(text, "65536\n"));
}

