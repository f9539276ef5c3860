// A server for the tests of the rehearsal: what happens at GET is the mode's, a POST is answered with what was seen before.
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGES 64
static char before[PAGES * 4096] __attribute__((aligned(4096)));
// Much that is only read, of one protection: 2 MiB of it, wherever they begin.
static const char constant[6 << 20] __attribute__((aligned(4096))) = {1};
// What a body is read into.
static volatile char input[PAGES * 4096] __attribute__((aligned(4096)));
static int gets, posts;

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "good";
    memset(before, 7, sizeof before);
    // Readable only, then writable in the middle: what is warmed must respect both.
    mprotect(before, 8 * 4096, PROT_READ);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    for (;;) {
        int connection = accept(listener, 0, 0);
        char request[4096] = "", text[256], body[128];
        if (read(connection, request, sizeof request - 1) <= 0) return 6;
        int get = !strncmp(request, "GET", 3);
        printf("%s\n", get ? "got" : "posted");
        fflush(stdout);
        if (get && !strcmp(mode, "hangs")) pause();
        if (get && !strcmp(mode, "crashes")) raise(SIGSEGV);
        if (get && !strcmp(mode, "exits")) return 3;
        int sum = 0;
        for (size_t at = 0; at < sizeof constant; at += 65536) sum += ((const volatile char *)constant)[at] - !at;
        for (int page = 0; page < PAGES; page++) {
            sum += before[page * 4096];
            if (page >= 32 && get) before[page * 4096] = 1;
        }
        int refuses = !get && !strcmp(mode, "refuses");
        if (refuses || (!get && !strcmp(mode, "takes")))
            for (int page = 0; page < PAGES; page++) input[page * 4096] = 1;
        if (get) gets++; else posts++;
        // A mapping that the rehearsal has and a clone has not, and one that it takes away.
        if (get) mprotect(before + 16 * 4096, 4096, PROT_NONE), mmap((void *)0x70000000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        int length = snprintf(body, sizeof body, "gets %d posts %d sum %d", gets, posts, sum);
        length = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", refuses ? "400 No" : "200 OK", length, body);
        if (write(connection, text, length) != length) return 7;
        if (get && !strcmp(mode, "lingers")) pause();
        close(connection);
    }
}
