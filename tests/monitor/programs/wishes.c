// Asks for what the monitor does not have: before it is ready, in a child process, and in a call. First argument: "http", "stdin", "brief",
// which does not read its input, "stuck", which never gets ready, or "outward", which says what becomes of a connection to the outside, and ends.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { UNKNOWN = 400, BEYOND = 9999 };

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    char buffer[4096];
    syscall(SYS_io_uring_setup, 1, buffer);
    pid_t child = fork();
    if (!child) {
        syscall(UNKNOWN);
        syscall(UNKNOWN);
        _exit(0);
    }
    if (child < 0 || waitpid(child, 0, 0) != child) return 7;
    if (!strcmp(kind, "stuck")) {
        dprintf(2, "waiting for \033[1mgodot\n");
        for (;;) pause();
    }
    if (!strcmp(kind, "brief")) return 0;
    if (!strcmp(kind, "stdin")) {
        while (read(0, buffer, sizeof buffer) > 0) {}
        syscall(BEYOND);
        return write(1, "done\n", 5) != 5;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (!strcmp(kind, "outward")) {
        address.sin_addr.s_addr = inet_addr("192.0.2.1");
        dprintf(2, "connect: %d\n", connect(listener, (void *)&address, sizeof address) ? errno : 0);
        return 3;
    }
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (read(connection, buffer, sizeof buffer) <= 0) return 6;
        syscall(BEYOND);
        dprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        close(connection);
    }
}
