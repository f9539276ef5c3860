// Makes what a program may hold when it is ready, waits for connections, and says to each what of it is there, and as it was.
// With a mode: holds one thing that cannot be carried.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char text[16384];
static size_t length;

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(text + length, sizeof text - length, format, arguments);
    va_end(arguments);
}

static void need(int good, const char *what) {
    if (good) return;
    perror(what);
    _exit(20);
}

static int make(const char *path, int flags, const char *content) {
    int fd = open(path, flags | O_CREAT, 0640);
    need(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content), path);
    return fd;
}

static int appended, nameless, copy, memory, sealed, image, event, pipes[2], inner, outer, locked, route;
static char *both, *anonymous, *named, *private;

// Asks for the first interface.
static void ask(int fd) {
    struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
    } asked = {{sizeof asked, RTM_GETLINK, NLM_F_REQUEST, 0, 0}, {.ifi_index = 1}};
    need(write(fd, &asked, sizeof asked) == sizeof asked, "netlink");
}

static void prepare(void) {
    struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_pid = 0x40001234};
    route = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    need(!bind(route, (void *)&own, sizeof own), "bind");
    umask(0);
    need(!mkdir("/tmp/dir", 0755) && !mkdir("/tmp/dir/closed", 0755), "mkdir");
    close(make("/tmp/dir/closed/file", O_WRONLY, "inside"));
    need(!chmod("/tmp/dir/closed", 0500) && !chmod("/tmp/dir/closed/file", 0604), "chmod");
    need(!symlink("closed/file", "/tmp/dir/link") && !link("/tmp/dir/closed/file", "/tmp/dir/second"), "links");
    need(!mkfifo("/tmp/dir/fifo", 0622), "mkfifo");
    need(!chdir("/tmp/dir"), "chdir");
    appended = make("/tmp/log", O_WRONLY | O_APPEND, "before\n");
    nameless = make("/tmp/gone", O_RDWR, "0123456789");
    unlink("/tmp/gone");
    lseek(nameless, 4, SEEK_SET);
    copy = dup(nameless);
    need(ftruncate(memory = memfd_create("shared", MFD_ALLOW_SEALING), 3 << 20) == 0, "memfd");
    need(pwrite(memory, "far", 3, 2 << 20) == 3, "pwrite");
    both = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 4096);
    strcpy(both, "mapped");
    sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
    need(write(sealed, "stone", 5) == 5 && !fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), "seal");
    anonymous = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(anonymous + (1 << 19), "anonymous");
    int segment = open("/dev/shm/segment", O_RDWR | O_CREAT, 0600);
    need(segment >= 0 && !ftruncate(segment, 4096), "shm");
    named = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, segment, 0);
    close(segment);
    strcpy(named, "segment");
    image = open("/data", O_RDONLY);
    need(image >= 0, "/data");
    private = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, image, 0);
    strcpy(private, "changed");
    need(lseek(image, 3, SEEK_SET) == 3, "lseek");
    event = eventfd(5, EFD_NONBLOCK);
    need(!pipe(pipes) && write(pipes[1], "waiting", 7) == 7, "pipe");
    struct epoll_event wanted = {EPOLLIN, {.u64 = 77}};
    inner = epoll_create1(0);
    outer = epoll_create1(EPOLL_CLOEXEC);
    need(!epoll_ctl(inner, EPOLL_CTL_ADD, event, &wanted) && !epoll_ctl(outer, EPOLL_CTL_ADD, inner, &wanted), "epoll");
    locked = make("/tmp/locked", O_RDWR, "");
    need(!flock(locked, LOCK_EX), "flock");
}

static const char *content(const char *path) {
    static char buffer[64];
    memset(buffer, 0, sizeof buffer);
    int fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, buffer, sizeof buffer - 1) < 0) snprintf(buffer, sizeof buffer, "%s", strerror(errno));
    if (fd >= 0) close(fd);
    return buffer;
}

static void look(void) {
    struct stat one, two;
    char buffer[64] = "";
    length = 0;
    say("inside %s", content("/tmp/dir/closed/file"));
    say(" %s", content("link"));
    stat("closed/file", &one);
    stat("/tmp/dir/second", &two);
    say(" %o %d %ld\n", one.st_mode, one.st_ino == two.st_ino, (long)one.st_nlink);
    stat("closed", &one);
    stat("fifo", &two);
    say("modes %o %o\n", one.st_mode, two.st_mode);
    say("append %zd", write(appended, "after\n", 6));
    say(" %s", content("/tmp/log"));
    fstat(nameless, &one);
    say("nameless %zd", read(nameless, buffer, 3));
    say(" %.3s %ld %ld\n", buffer, (long)one.st_nlink, (long)lseek(copy, 0, SEEK_CUR));
    say("memory %zd", pread(memory, buffer, 3, 2 << 20));
    strcpy(both, "written");
    say(" %.3s %ld", buffer, (long)lseek(memory, 0, SEEK_END));
    need(pread(memory, buffer, 8, 4096) == 8, "pread");
    say(" %s\n", buffer);
    memset(buffer, 0, sizeof buffer);
    say("sealed %zd", pread(sealed, buffer, 9, 0));
    say(" %s %x", buffer, fcntl(sealed, F_GET_SEALS));
    say(" %d", pwrite(sealed, "x", 1, 0) < 0 ? errno : 0);
    say(" %ld\n", (long)lseek(sealed, 0, SEEK_CUR));
    say("anonymous %s\n", anonymous + (1 << 19));
    named[0] = 'S';
    say("named %s %s\n", named, content("/dev/shm/segment"));
    memset(buffer, 0, sizeof buffer);
    say("image %zd", read(image, buffer, 10));
    say(" %s\n", buffer);
    say("private %s", private);
    say(" %d", madvise(private, 4096, MADV_DONTNEED));
    say(" %.10s\n", private);
    unsigned long count = 0;
    say("event %zd", read(event, &count, 8));
    say(" %lu\n", count);
    memset(buffer, 0, sizeof buffer);
    say("pipe %zd", read(pipes[0], buffer, 20));
    say(" %s\n", buffer);
    count = 3;
    need(write(event, &count, 8) == 8, "eventfd");
    struct epoll_event found = {0};
    say("nested %d", epoll_wait(outer, &found, 1, 0));
    say(" %llu", (unsigned long long)found.data.u64);
    say(" %d\n", fcntl(outer, F_GETFD));
    int again = open("/tmp/locked", O_RDWR);
    say("lock %d\n", flock(again, LOCK_EX | LOCK_NB) ? errno : 0);
    char told[4096] __attribute__((aligned(8)));
    ask(route);
    say("route %d", recv(route, told, sizeof told, MSG_DONTWAIT) > 0 ? ((struct nlmsghdr *)told)->nlmsg_type : -1);
    say(" %x\n", ((struct nlmsghdr *)told)->nlmsg_pid);
    say("place %s\n", getcwd(buffer, sizeof buffer));
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int seen = 0, program = 0;
    while (fgets(line, sizeof line, maps)) {
        seen += strstr(line, " /data\n") != 0;
        program += strstr(line, "carried") != 0;
    }
    say("maps %d %d\n", seen, program > 0);
}

static void refused(const char *mode) {
    if (!strcmp(mode, "inotify")) {
        need(inotify_add_watch(inotify_init1(0), "/tmp", IN_CREATE) >= 0, mode);
    } else if (!strcmp(mode, "record-lock")) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
        need(!fcntl(make("/tmp/locked", O_RDWR, "x"), F_SETLK, &lock), mode);
    } else if (!strcmp(mode, "pending")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        sigprocmask(SIG_BLOCK, &set, 0);
        raise(SIGUSR1);
    } else if (!strcmp(mode, "socket")) {
        need(socket(AF_UNIX, SOCK_DGRAM, 0) >= 0, mode);
    } else if (!strcmp(mode, "netlink")) {
        ask(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    } else if (!strcmp(mode, "pair")) {
        int ends[2];
        need(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends) && write(ends[0], "x", 1) == 1, mode);
    } else if (!strcmp(mode, "watched-gone")) {
        struct epoll_event wanted = {EPOLLIN, {0}};
        int set = epoll_create1(0), pipes[2];
        need(!pipe(pipes) && !epoll_ctl(set, EPOLL_CTL_ADD, pipes[0], &wanted) && dup(pipes[0]) >= 0 && !close(pipes[0]), mode);
    } else if (!strcmp(mode, "large")) {
        int fd = make("/tmp/large", O_WRONLY, "");
        static char block[1 << 20];
        memset(block, 1, sizeof block);
        for (int i = 0; i < 33; i++) need(write(fd, block, sizeof block) == sizeof block, mode);
    } else if (!strcmp(mode, "mapped")) {
        int fd = memfd_create("closed", 0);
        need(!ftruncate(fd, 4096) && mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED && !close(fd), mode);
    } else if (!strcmp(mode, "half-read")) {
        char records[512];
        need(!mkdir("/tmp/full", 0755), mode);
        char name[] = "/tmp/full/a-rather-long-name-of-a-file-a", *last = name + sizeof name - 2;
        for (; *last != 's'; ++*last) close(make(name, O_WRONLY, ""));
        need(getdents64(open("/tmp/full", O_RDONLY | O_DIRECTORY), records, sizeof records) > 0, mode);
    } else {
        _exit(21);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT"))), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (argc > 1)
        refused(argv[1]);
    else
        prepare();
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    need(!bind(listener, (void *)&address, sizeof address) && !listen(listener, 16), "listen");
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int connection = accept(listener, 0, 0);
        need(connection >= 0, "accept");
        char request[4096];
        need(read(connection, request, sizeof request) > 0, "request");
        if (argc <= 1) look();
        dprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", length, text);
        close(connection);
    }
}
