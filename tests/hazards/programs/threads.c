// Makes threads until there are no more, and shows the error; then again, to see that all places came back.
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *wait(void *argument) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return NULL;
}

int main(void) {
    static pthread_t threads[5000];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int round = 0; round < 2; round++) {
        int made = 0, error = 0;
        pthread_mutex_lock(&gate);
        while (made < 5000 && (error = pthread_create(threads + made, &small, wait, NULL)) == 0) made++;
        pthread_mutex_unlock(&gate);
        for (int i = 0; i < made; i++) pthread_join(threads[i], NULL);
        printf("%d %s\n", made, strerrorname_np(error));
        fflush(stdout);
    }
    return 0;
}
