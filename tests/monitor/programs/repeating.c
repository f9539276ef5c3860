// Draws numbers when it starts, and shows them in each call: in the answer, in the name of a file, in a port. Another is drawn in the call.
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned draw(void) {
    unsigned drawn;
    if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) _exit(9);
    return drawn;
}

static int listening(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) _exit(5);
    return listener;
}

int main(int argc, char **argv) {
    int early = argc > 1 && !strcmp(argv[1], "early");
    unsigned drawn = draw();
    int listener = listening(atoi(getenv("PORT")));
    for (;;) {
        char request[4096], name[64], body[256];
        int connection = accept(listener, 0, 0);
        if (read(connection, request, sizeof request) <= 0) return 6;
        if (!early) drawn = draw();
        snprintf(name, sizeof name, "/tmp/work-%08x0", drawn);
        close(open(name, O_WRONLY | O_CREAT, 0600));
        listening(20000 + drawn % 20000);
        snprintf(body, sizeof body, "kept 1%08x fresh 2%08x", drawn, draw());
        dprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
        close(connection);
    }
}
