// A function that does what it is told, by the path of a request (http) or by its body (stdin): WORD or WORD/NUMBER.
//
// What a snapshot keeps is set at the start: the version from the environment, the image's number from a file, a counter.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE (1 << 20)
#define MOST 400 // of anything that is told in MiB: more would hurt whoever runs this without limits

static char image[32] = "-";
static const char *version = "-";
static int counter;
static char piece[PIECE];

static void all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t step = write(fd, data, size);
        if (step <= 0) _exit(9);
        data += step;
        size -= step;
    }
}

static void *wait_for_ever(void *nothing) {
    for (;;) pause();
    return nothing;
}

static void flood(int fd, long mebibytes, const char *before, const char *after) {
    memset(piece, 'x', sizeof piece);
    piece[sizeof piece - 1] = '\n';
    for (long i = 0; i < mebibytes; i++) {
        all(fd, before, strlen(before));
        all(fd, piece, sizeof piece);
        all(fd, after, strlen(after));
    }
}

// Takes of something until it gets no more; says how much it got and why it ended.
static void take(const char *what, char *answer, size_t room) {
    long got = 0;
    errno = 0;
    if (!strcmp(what, "memory")) {
        char *block;
        while ((block = malloc(PIECE)) != NULL) {
            memset(block, 1, PIECE);
            got++;
        }
    } else if (!strcmp(what, "shared")) {
        char *block;
        while (got < MOST && (block = mmap(0, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED) {
            memset(block, 1, PIECE);
            got++;
        }
    } else if (!strcmp(what, "memfds")) {
        // Files that are nowhere but in memory.
        int file;
        while (got < MOST && (file = memfd_create("filler", 0)) >= 0 && write(file, piece, PIECE) == PIECE) got++;
    } else if (!strcmp(what, "room")) {
        // The same without a byte that is written.
        int file;
        while (got < MOST && (file = memfd_create("filler", 0)) >= 0 && fallocate(file, 0, 0, PIECE) == 0) got++;
    } else if (!strcmp(what, "pipes")) {
        int ends[2];
        long bytes = 0;
        while (bytes < MOST * (long)PIECE && pipe2(ends, O_NONBLOCK) == 0) {
            fcntl(ends[1], F_SETPIPE_SZ, PIECE);
            for (ssize_t step; (step = write(ends[1], piece, PIECE)) > 0;) bytes += step;
        }
        got = bytes / PIECE;
    } else if (!strcmp(what, "sockets")) {
        int ends[2];
        long bytes = 0;
        while (bytes < MOST * (long)PIECE && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0) {
            int most = 8 * PIECE;
            setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &most, sizeof most);
            for (ssize_t step; (step = write(ends[1], piece, PIECE)) > 0;) bytes += step;
        }
        got = bytes / PIECE;
    } else if (!strcmp(what, "file")) {
        // One file that grows. A program that wants to hear of a limit, as Python does, ignores the signal that tells of it.
        signal(SIGXFSZ, SIG_IGN);
        int file = open("/tmp/filler", O_WRONLY | O_CREAT, 0600);
        while (file >= 0 && got < MOST && write(file, piece, PIECE) == PIECE) got++;
    } else if (!strcmp(what, "disk")) {
        // Many files, in every place that can be written.
        const char *places[] = {"/tmp", "/var/tmp", "/dev/shm"};
        for (int place = 0; place < 3; place++)
            for (int number = 0; got < MOST; number++) {
                char path[64];
                snprintf(path, sizeof path, "%s/%d", places[place], number);
                int file = open(path, O_WRONLY | O_CREAT, 0600);
                if (file < 0 || write(file, piece, PIECE) != PIECE) break;
                close(file);
                got++;
            }
    } else if (!strcmp(what, "names")) {
        // Files without a byte in them.
        int file;
        do {
            char path[64];
            snprintf(path, sizeof path, "/tmp/%ld", got);
            if ((file = open(path, O_WRONLY | O_CREAT, 0600)) < 0) break;
            close(file);
        } while (++got < 100000);
    } else if (!strcmp(what, "files")) {
        while (got < 1000000 && open("/dev/null", O_RDONLY) >= 0) got++;
    } else if (!strcmp(what, "threads")) {
        pthread_t thread;
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 65536);
        while (got < 1000000 && (errno = pthread_create(&thread, &small, wait_for_ever, NULL)) == 0) got++;
    } else if (!strcmp(what, "processes")) {
        pid_t child;
        while (got < 100000 && (child = fork()) >= 0) {
            if (child == 0) wait_for_ever(NULL);
            got++;
        }
    }
    snprintf(answer, room, "%ld %d", got, errno);
}

static void answer_http(int connection, const char *body) {
    char text[512];
    snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    all(connection, text, strlen(text));
}

static void nap(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

// What both contracts know; the answer, or NULL for a word that is of one contract only.
static const char *common(const char *word, long number, char *answer, size_t room) {
    counter++;
    if (!strcmp(word, "version")) {
        snprintf(answer, room, "%s %s %d", image, version, counter);
    } else if (!strcmp(word, "sleep")) {
        nap(number);
        snprintf(answer, room, "%s %s %d", image, version, counter);
    } else if (!strcmp(word, "spin")) {
        for (;;) __asm__ volatile("");
    } else if (!strcmp(word, "log")) {
        flood(2, number, "", "");
        snprintf(answer, room, "written");
    } else if (!strcmp(word, "exit")) {
        fprintf(stderr, "not for the client: failing as told\n");
        exit((int)number);
    } else if (!strcmp(word, "signal")) {
        raise((int)number);
    } else if (!strcmp(word, "overflow")) {
        char *frame = __builtin_alloca(PIECE);
        memset(frame, 1, PIECE);
        return common(word, number + frame[5], answer, room);
    } else if (!strncmp(word, "take-", 5)) {
        take(word + 5, answer, room);
    } else {
        return NULL;
    }
    return answer;
}

static void serve_http(int connection) {
    static char request[65536];
    size_t length = 0;
    while (length < sizeof request - 1) {
        ssize_t step = read(connection, request + length, sizeof request - 1 - length);
        if (step <= 0) break;
        length += step;
        request[length] = 0;
        if (strstr(request, "\r\n\r\n")) break;
    }
    char word[64] = "", answer[256];
    long number = 0;
    sscanf(request, "%*s /%63[^/ ]/%ld", word, &number);
    if (common(word, number, answer, sizeof answer)) {
        answer_http(connection, answer);
    } else if (!strcmp(word, "half-length")) {
        const char *text = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
        all(connection, text, strlen(text));
    } else if (!strcmp(word, "half-chunk")) {
        const char *text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf";
        all(connection, text, strlen(text));
    } else if (!strcmp(word, "half-chunks")) {
        const char *text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        all(connection, text, strlen(text));
    } else if (!strcmp(word, "half-killed")) {
        // Its end is the end of the connection; that the program died before it is known to the monitor alone.
        const char *text = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf";
        all(connection, text, strlen(text));
        nap(200);
        abort();
    } else if (!strcmp(word, "half-head")) {
        const char *text = "HTTP/1.1 200 OK\r\nContent-Le";
        all(connection, text, strlen(text));
    } else if (!strcmp(word, "nonsense")) {
        const char *text = "220 mail.example.org ESMTP\r\n\r\n";
        all(connection, text, strlen(text));
    } else if (!strcmp(word, "flood-length")) {
        char text[128];
        snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %ld\r\n\r\n", number * PIECE);
        all(connection, text, strlen(text));
        flood(connection, number, "", "");
    } else if (!strcmp(word, "flood-chunked")) {
        const char *text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        all(connection, text, strlen(text));
        flood(connection, number, "100000\r\n", "\r\n");
        all(connection, "0\r\n\r\n", 5);
    } else if (!strcmp(word, "flood-head")) {
        all(connection, "HTTP/1.1 200 OK\r\n", 17);
        flood(connection, number, "X-Long: ", "\r\n");
    } else {
        answer_http(connection, "no such word");
    }
    shutdown(connection, SHUT_WR);
    close(connection);
}

static int http(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection < 0) return 10;
        serve_http(connection);
    }
}

static int from_stdin(void) {
    char body[4096], word[64] = "", answer[256];
    long number = 0;
    size_t length = fread(body, 1, sizeof body - 1, stdin);
    body[length] = 0;
    sscanf(body, "%63[^/ ]/%ld", word, &number);
    if (common(word, number, answer, sizeof answer))
        fputs(answer, stdout);
    else if (!strcmp(word, "flood"))
        flood(1, number, "", "");
    else
        fputs("no such word", stdout);
    return 0;
}

int main(void) {
    const char *start = getenv("START");
    if (start && !strcmp(start, "exit")) {
        fprintf(stderr, "cannot start: no configuration\n");
        return 4;
    }
    if (start && !strcmp(start, "never")) {
        fprintf(stderr, "still thinking\n");
        wait_for_ever(NULL);
    }
    if (start && !strcmp(start, "spin")) {
        fprintf(stderr, "busy thinking\n");
        for (;;) __asm__ volatile("");
    }
    if (start && !strcmp(start, "crash")) *(volatile int *)8 = 1;
    if (getenv("VERSION")) version = getenv("VERSION");
    int file = open("/number", O_RDONLY);
    if (file >= 0) {
        ssize_t size = read(file, image, sizeof image - 1);
        image[size > 0 ? size : 0] = 0;
        close(file);
    }
    const char *contract = getenv("CONTRACT");
    return contract && !strcmp(contract, "stdin") ? from_stdin() : http();
}
