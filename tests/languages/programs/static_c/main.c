#define _GNU_SOURCE
// A server of some lines, static with musl.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static int calls;

// Reads a request to the end of its body; 0 if there is none.
static char *request(int connection, char *buffer, size_t size) {
    size_t have = 0;
    while (have < size - 1) {
        ssize_t got = read(connection, buffer + have, size - 1 - have);
        if (got <= 0) return NULL;
        buffer[have += (size_t)got] = 0;
        char *body = strstr(buffer, "\r\n\r\n"), *length = strcasestr(buffer, "\r\ncontent-length:");
        if (body && length && strlen(body + 4) >= strtoul(length + 17, NULL, 10)) return body + 4;
    }
    return NULL;
}

static void answer(int connection) {
    char buffer[8192], text[256], body[1024], reply[2048], random[33];
    unsigned char bytes[16];
    long number, sum = 0;
    char *asked = request(connection, buffer, sizeof buffer);
    if (!asked || sscanf(asked, "{\"text\": \"%255[^\"]\", \"number\": %ld}", text, &number) != 2) return;
    for (long n = 0; n <= number; n++) sum += n * n;
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return;
    for (int i = 0; i < 16; i++) sprintf(random + 2 * i, "%02x", bytes[i]);
    int length = snprintf(body, sizeof body,
                          "{\"text\": \"%s\", \"count\": %d, \"sum\": %ld, \"random\": \"%s\", \"version\": \"%s\"}", text,
                          ++calls, sum, random, "gcc " __VERSION__);
    length = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", length, body);
    if (write(connection, reply, (size_t)length) != length) abort();
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(getenv("PORT")))};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) return 1;
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) return 2;
        answer(connection);
        close(connection);
    }
}
