// Processes as the calls on them show them. Reads its input first, so that in a function all of it happens in a clone.
#include "show.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>

extern char **environ;
static volatile int told, told_parent;

static void tell(int signal, siginfo_t *info, void *context) {
    (void)context;
    told += signal == SIGUSR1 && info->si_code == SI_QUEUE ? info->si_value.sival_int : 1;
}

static void tell_parent(int signal) { told_parent += signal == SIGUSR2; }

static void *pester(void *stop) {
    while (!*(volatile int *)stop) {
        kill(getpid(), SIGUSR2);
        usleep(300);
    }
    return 0;
}

static int child_of_clone(void *argument) {
    signal(SIGUSR2, SIG_DFL);
    usleep(20000);
    *(int *)argument = 5;
    _exit(6);
}

int main(int argc, char **argv) {
    char line[100];
    int status;
    if (argc > 1 && !strcmp(argv[1], "again")) {
        printf("again %d %s %d\n", argc, argv[2], getenv("A") != 0);
        // In a function the first process's status must be 0, to have the output.
        return getenv("STATUS") ? atoi(getenv("STATUS")) : 7;
    }
    if (read(0, line, sizeof line) < 0) return 8;
    struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, 0);

    // Waiting.
    SHOW(wait(&status));
    pid_t child = fork();
    if (child == 0) _exit(3);
    siginfo_t info;
    SHOW(waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    SHOW(info.si_status);
    SHOW(waitpid(child, &status, 0) == child);
    SHOW(WEXITSTATUS(status));
    SHOW(waitpid(child, &status, 0));
    SHOW(kill(child, 0));

    // The child of a vfork writes into its parent's memory; the file that is not there is known at once.
    volatile int mark = 0;
    child = vfork();
    if (child == 0) {
        mark = 9;
        _exit(4);
    }
    SHOW(mark);
    SHOW(waitpid(child, &status, 0) == child);
    SHOW(WEXITSTATUS(status));
    char *arguments[] = {argv[0], "again", "word", 0}, *environment[] = {"A=b", 0}, *last[] = {"A=b", getenv("STATUS") ? "STATUS=0" : 0, 0};
    SHOW(posix_spawn(&child, "/no/such/program", 0, 0, arguments, environment));
    fflush(stdout);
    int spawned = posix_spawn(&child, argv[0], 0, 0, arguments, environment);
    SHOW(waitpid(child, &status, 0) == child);
    SHOW(spawned);
    SHOW(WEXITSTATUS(status));
    child = vfork();
    if (child == 0) {
        execve("/proc/self/exe", arguments, environment);
        _exit(99);
    }
    SHOW(waitpid(child, &status, 0) == child);
    SHOW(WEXITSTATUS(status));

    // While a child runs in the memory of its parent, other threads take signals with the parent's handlers.
    int stop = 0, shared = 0;
    pthread_t thread;
    static char stack[65536];
    signal(SIGUSR2, tell_parent);
    pthread_create(&thread, 0, pester, &stop);
    child = clone(child_of_clone, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &shared);
    stop = 1;
    pthread_join(thread, 0);
    SHOW(shared);
    while (waitpid(child, &status, 0) < 0) {}
    SHOW(WEXITSTATUS(status));
    SHOW(told_parent > 0);

    // Groups and sessions.
    int pipes[2];
    DO(pipe(pipes));
    child = fork();
    if (child == 0) {
        SHOW(setsid() == getpid());
        SHOW(getpgrp() == getpid());
        SHOW(getsid(0) == getpid());
        SHOW(setsid());
        write(pipes[1], "x", 1);
        for (;;) pause();
    }
    read(pipes[0], line, 1);
    SHOW(getpgid(child) == child);
    SHOW(getsid(child) == child);
    SHOW(setpgid(child, 0));
    SHOW(kill(-child, SIGTERM));
    SHOW(waitpid(-child, &status, 0) == child);
    SHOW(WTERMSIG(status));
    SHOW(kill(-child, SIGTERM));

    // Stopping and going on.
    child = fork();
    if (child == 0)
        for (;;) pause();
    SHOW(kill(child, SIGSTOP));
    SHOW(waitpid(child, &status, WUNTRACED) == child);
    SHOW(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    SHOW(kill(child, SIGCONT));
    SHOW(waitpid(child, &status, WCONTINUED) == child);
    SHOW(WIFCONTINUED(status) != 0);
    SHOW(kill(child, SIGKILL));
    SHOW(waitpid(child, &status, 0) == child);
    SHOW(WTERMSIG(status));

    // Signals with values, to the parent.
    child = fork();
    if (child == 0) {
        union sigval value = {.sival_int = 42};
        _exit(sigqueue(getppid(), SIGUSR1, value));
    }
    while (waitpid(child, &status, 0) < 0) {}
    while (!told) pause();
    SHOW(told);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, 0);
    child = fork();
    if (child == 0) _exit(8);
    struct timespec long_enough = {20, 0};
    SHOW(sigtimedwait(&set, &info, &long_enough) == SIGCHLD && info.si_pid == child);
    SHOW(info.si_status);
    SHOW(waitpid(child, &status, 0) == child);

    // Ignored children need no waiting.
    signal(SIGCHLD, SIG_IGN);
    child = fork();
    if (child == 0) _exit(0);
    SHOW(waitpid(child, &status, 0));

    fflush(stdout);
    execve(argv[0], arguments, last);
    return 99;
}
