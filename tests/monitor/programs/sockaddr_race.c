// A second thread changes the address while connect(2) and sendto(2) read it: between one that the policy allows (192.0.2.1) and one
// that it refuses (198.51.100.1). Whatever was connected must be what is allowed. Argument: how many calls.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile struct sockaddr_in to;
static volatile int done;
static unsigned allowed_address, refused_address;

static void *flip(void *unused) {
    while (!done) {
        to.sin_addr.s_addr = refused_address;
        to.sin_addr.s_addr = allowed_address;
    }
    return NULL;
}

int main(int count, char **arguments) {
    char byte;
    while (read(0, &byte, 1) == 1) {
    }
    long calls = atol(arguments[1]), allowed = 0, refused = 0, wrong = 0, unanswered = 0;
    allowed_address = inet_addr("192.0.2.1");
    refused_address = inet_addr("198.51.100.1");
    to.sin_family = AF_INET;
    pthread_t thread;
    if (pthread_create(&thread, NULL, flip, NULL)) return 3;
    int datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    for (long call = 0; call < calls; call++) {
        // Refusals are cheap, connections make work on both sides: one in 64 calls is a connection.
        if (call % 64) {
            to.sin_port = htons(9000);
            long sent = sendto(datagrams, "x", 1, MSG_DONTWAIT, (void *)&to, sizeof to);
            if (sent == 1 || errno == EAGAIN) allowed++;
            else if (errno == EACCES) refused++;
            else return 4;
            struct sockaddr_in from;
            socklen_t length = sizeof from;
            while (recvfrom(datagrams, &byte, 1, MSG_DONTWAIT, (void *)&from, &length) == 1) wrong += from.sin_addr.s_addr != allowed_address;
            continue;
        }
        to.sin_port = htons(8001);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (void *)&to, sizeof to) == 0) {
            struct sockaddr_in peer;
            socklen_t length = sizeof peer;
            if (getpeername(fd, (void *)&peer, &length) == 0) {
                allowed++;
                wrong += peer.sin_addr.s_addr != allowed_address;
            }
        } else if (errno == EACCES) refused++;
        else if (errno == ECONNREFUSED || errno == ECONNRESET || errno == EADDRNOTAVAIL) unanswered++;  // let through, and not taken
        else return errno;
        close(fd);
    }
    done = 1;
    pthread_join(thread, NULL);
    printf("calls=%ld allowed=%ld refused=%ld wrong=%ld unanswered=%ld\n", calls, allowed, refused, wrong, unanswered);
    return 0;
}
