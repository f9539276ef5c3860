// A server that tries, one way a path, to get out of its instance or to take more than its share.
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <pthread.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char text[1 << 16];
static int length;

#define SAY(...) (length += snprintf(text + length, sizeof text - length, __VA_ARGS__))

// Says the error of a call that must fail, 0 for one that does not.
#define TRY(call) (errno = 0, SAY("%d\n", (long)(call) == -1 ? errno : 0))

static void send_all(int connection, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t sent = write(connection, bytes, count);
        if (sent <= 0) _exit(9);
        bytes += sent;
        count -= sent;
    }
}

static void answer(int connection) {
    char head[128];
    int size = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", length);
    send_all(connection, head, size);
    send_all(connection, text, length);
}

static void *wait_forever(void *nothing) {
    for (;;) pause();
    return nothing;
}

// Asks rtnetlink, and says which message answers, of which interface and with which attributes, or with which error.
static void ask(int fd, const char *what, int type, int flags) {
    struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
    } asked = {.head = {.nlmsg_len = sizeof asked, .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags}, .link = {.ifi_index = 2}};
    static char room[1 << 16] __attribute__((aligned(8)));
    SAY("%s %d:", what, type);
    long count = send(fd, &asked, sizeof asked, 0) < 0 ? -1 : recv(fd, room, sizeof room, 0);
    for (struct nlmsghdr *at = (void *)room; count > 0 && NLMSG_OK(at, count); at = NLMSG_NEXT(at, count)) {
        SAY(" %d", at->nlmsg_type);
        if (at->nlmsg_type == NLMSG_ERROR) SAY("=%d", ((struct nlmsgerr *)NLMSG_DATA(at))->error);
        if (at->nlmsg_type == RTM_NEWLINK) SAY("=%d", ((struct ifinfomsg *)NLMSG_DATA(at))->ifi_index);
        if (at->nlmsg_type == RTM_NEWADDR) {
            struct ifaddrmsg *head = NLMSG_DATA(at);
            char shown[INET6_ADDRSTRLEN];
            SAY("=%d,%s/%d", head->ifa_index, inet_ntop(head->ifa_family, RTA_DATA(IFA_RTA(head)), shown, sizeof shown), head->ifa_prefixlen);
        }
    }
    SAY("\n");
}

static void act(const char *path, const char *argument) {
    if (!strcmp(path, "/ok")) {
        SAY("ok");
    } else if (!strcmp(path, "/crash")) {
        *(volatile int *)8 = 1;
    } else if (!strcmp(path, "/open")) {
        TRY(open(argument, O_RDONLY));
    } else if (!strcmp(path, "/write-root")) {
        TRY(open("/new", O_WRONLY | O_CREAT, 0600));
        TRY(open("/data", O_WRONLY));
        TRY(open("/data", O_RDONLY | O_TRUNC));
        TRY(mkdir("/dir", 0700));
        TRY(unlink("/data"));
        TRY(rename("/data", "/other"));
        TRY(link("/data", "/other"));
        TRY(symlink("/data", "/other"));
        TRY(chmod("/data", 0777));
        TRY(truncate("/data", 0));
    } else if (!strcmp(path, "/ids")) {
        gid_t groups[8];
        int count = getgroups(8, groups);
        SAY("%d %d %d %d %ld", getuid(), geteuid(), getgid(), getegid(), getauxval(AT_SECURE));
        for (int i = 0; i < count; i++) SAY(" %d", groups[i]);
        struct stat status;
        if (stat("/data", &status)) _exit(8);
        SAY("\n%d %d", (int)status.st_uid, (int)status.st_gid);
        int made = open("/tmp/own", O_WRONLY | O_CREAT, 0600);
        if (fstat(made, &status)) _exit(8);
        SAY("\n%d %d", (int)status.st_uid, (int)status.st_gid);
    } else if (!strcmp(path, "/network")) {
        struct sockaddr_in metadata = {.sin_family = AF_INET, .sin_port = htons(80)};
        inet_pton(AF_INET, "169.254.169.254", &metadata.sin_addr);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        TRY(fd < 0 ? -1 : connect(fd, (void *)&metadata, sizeof metadata));
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        TRY(fd < 0 ? -1 : sendto(fd, "x", 1, 0, (void *)&metadata, sizeof metadata));
        for (int protocol = 0; protocol < 32; protocol++)
            if (protocol != NETLINK_ROUTE) TRY(socket(AF_NETLINK, SOCK_RAW, protocol));
        TRY(socket(AF_VSOCK, SOCK_STREAM, 0));
        TRY(socket(AF_PACKET, SOCK_RAW, 0));
        TRY(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int size = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "%s", argument);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        TRY(connect(fd, (void *)&name, offsetof(struct sockaddr_un, sun_path) + 1 + size));
    } else if (!strcmp(path, "/interfaces")) {
        int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), inet = socket(AF_INET, SOCK_DGRAM, 0);
        for (int type = RTM_BASE; type <= RTM_MAX; type++)
            if (type % 4 == RTM_GETLINK % 4) ask(fd, "dump", type, NLM_F_DUMP);
            else ask(fd, "change", type, NLM_F_ACK);
        ask(fd, "one", RTM_GETLINK, 0);
        for (int index = 0; index < 4096; index++) {
            struct ifreq named = {.ifr_ifindex = index};
            if (!ioctl(inet, SIOCGIFNAME, &named)) SAY("name %d: %s\n", index, named.ifr_name);
        }
        SAY("tables\n");
        const char *files[] = {"dev", "if_inet6", "route", "ipv6_route", "arp", "tcp", "tcp6", "udp", "udp6", "unix"};
        for (int i = 0; i < 10; i++) {
            char name[64];
            snprintf(name, sizeof name, "/proc/net/%s", files[i]);
            int file = open(name, O_RDONLY);
            long count = read(file, text + length, 4096);
            if (file < 0 || count < 0) _exit(8);
            length += count;
        }
    } else if (!strcmp(path, "/fork")) {
        int made = 0;
        for (int i = 0; i < 100000; i++) {
            pid_t pid = fork();
            if (pid == 0) for (;;) pause();
            if (pid < 0) break;
            made++;
        }
        SAY("%d %d", made, errno);
    } else if (!strcmp(path, "/threads")) {
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 16384);
        int made = 0, error = 0;
        pthread_t thread;
        while (made < 100000 && !(error = pthread_create(&thread, &small, wait_forever, 0))) made++;
        SAY("%d %d", made, error);
    } else if (!strcmp(path, "/malloc")) {
        size_t got = 0;
        void *piece;
        while (got < 10240 && (piece = malloc(1 << 20))) {
            memset(piece, 1, 1 << 20);
            got++;
        }
        SAY("%zu %d", got, errno);
    } else if (!strcmp(path, "/reservation")) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        char *vast = mmap(0, 10l << 30, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (vast == MAP_FAILED) SAY("refused %d", errno);
        for (long at = 0; vast != MAP_FAILED && at < 10l << 30; at += 4096) vast[at] = 1;
        SAY("touched all");
    } else if (!strcmp(path, "/filled")) {
        // By the monitor, on behalf of the program.
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, zero = open("/dev/zero", O_RDONLY);
        char *vast = mmap(0, 10l << 30, PROT_READ | PROT_WRITE, flags, -1, 0);
        long filled = 0;
        ssize_t step = 0;
        while (filled < 10l << 30 && (step = read(zero, vast + filled, 64 << 20)) > 0) filled += step;
        SAY("%ld %d", filled >> 20, step < 0 ? errno : 0);
    } else if (!strcmp(path, "/hidden")) {
        // What was written stays, whatever may be done with it now.
        int mebibytes = 0;
        for (char *piece; mebibytes < 10240; mebibytes += 8) {
            piece = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (piece == MAP_FAILED) break;
            memset(piece, 1, 8 << 20);
            mprotect(piece, 8 << 20, mebibytes & 8 ? PROT_READ : PROT_NONE);
        }
        SAY("%d %d", mebibytes, errno);
    } else if (!strcmp(path, "/opens")) {
        int opened = 0;
        for (int i = 0; i < atoi(argument); i++) {
            if (open("/dev/null", O_RDONLY) < 0 && errno != EMFILE) _exit(8);
            opened += errno != EMFILE;
            errno = 0;
        }
        SAY("%d %d", opened, open("/dev/null", O_RDONLY) < 0 ? errno : 0);
    } else if (!strcmp(path, "/file")) {
        signal(SIGXFSZ, SIG_IGN);
        int fd = open(argument, O_WRONLY | O_CREAT, 0600);
        long wrote = 0;
        ssize_t step = 0;
        while (wrote < 1l << 30 && (step = write(fd, text, sizeof text)) > 0) wrote += step;
        SAY("%ld %d", wrote, step < 0 ? errno : 0);
        errno = 0;
        SAY(" %d", ftruncate(fd, 1l << 40) ? errno : 0);
    } else if (!strcmp(path, "/spin")) {
        for (;;) __asm__ volatile("");
    } else if (!strcmp(path, "/madvise")) {
        int advices[] = {MADV_DONTNEED, MADV_WILLNEED, MADV_FREE, MADV_HUGEPAGE, MADV_COLD, MADV_POPULATE_READ, MADV_POPULATE_WRITE};
        for (unsigned i = 0; i < sizeof advices / sizeof *advices; i++) {
            TRY(syscall(SYS_madvise, 0x20000000, 1ul << 44, advices[i]));
            TRY(syscall(SYS_madvise, 0, 1ul << 44, advices[i]));
        }
    } else if (!strcmp(path, "/sleep")) {
        struct timespec long_time = {1000000000, 0};
        nanosleep(&long_time, 0);
    } else if (!strcmp(path, "/descriptors")) {
        DIR *directory = opendir("/proc/self/fd");
        struct dirent *entry;
        while (directory && (entry = readdir(directory)))
            if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(directory)) SAY("%s ", entry->d_name);
        int open_numbers = 0;
        for (int fd = 0; fd < 70000; fd++) open_numbers += fcntl(fd, F_GETFD) >= 0;
        SAY("%d", open_numbers - 1);
    } else if (!strcmp(path, "/environment")) {
        for (char **entry = environ; *entry; entry++) SAY("%s\n", *entry);
        char own[4096];
        int fd = open("/proc/self/environ", O_RDONLY);
        ssize_t size = read(fd, own, sizeof own);
        for (int i = 0; i < size; i++) SAY("%c", own[i] ? own[i] : '\n');
    } else if (!strcmp(path, "/devices")) {
        const char *names[] = {"/dev/kvm", "/dev/cuse", "/dev/fuse", "/dev/mem", "/dev/vda", "/dev/net/tun", "/dev/vhost-vsock", "/dev/ptmx"};
        for (unsigned i = 0; i < sizeof names / sizeof *names; i++) TRY(open(names[i], O_RDWR));
        TRY(mknod("/tmp/kvm", S_IFCHR | 0666, makedev(10, 232)));
        TRY(mknod("/tmp/disk", S_IFBLK | 0666, makedev(254, 0)));
    } else if (!strcmp(path, "/output")) {
        static char line[1 << 16];
        memset(line, 'x', sizeof line);
        line[sizeof line - 1] = '\n';
        for (long i = 0; i < (atol(argument) << 20) / (long)sizeof line; i++)
            if (write(1, line, sizeof line) < 0) _exit(9);
        SAY("ok");
    } else if (!strcmp(path, "/group")) {
        const char *names[] = {"memory.max", "cpu.max", "pids.max"};
        for (int i = 0; i < 3; i++) {
            char file[64], value[64] = "";
            snprintf(file, sizeof file, "/sys/fs/cgroup/%s", names[i]);
            int fd = open(file, O_RDONLY);
            if (fd >= 0 && read(fd, value, sizeof value - 1) > 0) SAY("%s", value);
        }
    } else {
        SAY("?");
    }
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection < 0) return 10;
        static char request[65536], path[64], argument[1024];
        ssize_t got = 0, step;
        while (got < (ssize_t)sizeof request - 1 && (step = read(connection, request + got, sizeof request - 1 - got)) > 0) {
            got += step;
            request[got] = 0;
            if (strstr(request, "\r\n\r\n")) break;
        }
        sscanf(request, "%*s %63[^? ]?%1023s", path, argument);
        act(path, argument);
        answer(connection);
        close(connection);
    }
}
