// Child processes: fork(2), vfork(2), execve(2), wait4(2), waitid(2), exits and groups.
#include "case.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

extern char **environ;

#define CHILD(...)                  \
    ({                              \
        pid_t child_ = DO(fork());  \
        if (child_ == 0) {          \
            __VA_ARGS__;            \
            _exit(0);               \
        }                           \
        child_;                     \
    })

static int ended(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

CASE(a_child_gives_its_status) {
    int status = ended(CHILD(_exit(42)));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    status = ended(CHILD(_exit(256 + 7)));
    CHECK(WEXITSTATUS(status) == 7);
}

CASE(a_child_has_its_own_memory) {
    char *own = pages(1), *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ended(CHILD(own[0] = 1, shared[0] = 2));
    CHECK(own[0] == 0 && shared[0] == 2);
}

CASE(a_child_shares_positions) {
    put("file", "abcdef");
    int fd = DO(open("file", O_RDONLY));
    ended(CHILD(lseek(fd, 4, SEEK_SET)));
    CHECK(lseek(fd, 0, SEEK_CUR) == 4);
}

CASE(a_child_killed_tells_the_signal) {
    int status = ended(CHILD(raise(SIGKILL)));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = ended(CHILD(signal(SIGSEGV, SIG_DFL), *(volatile int *)8 = 1));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    status = ended(CHILD(abort()));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

CASE(waiting_without_children_is_echild) {
    int status;
    FAILS(ECHILD, wait(&status));
    FAILS(ECHILD, waitpid(getpid(), &status, WNOHANG));
    siginfo_t info;
    FAILS(ECHILD, waitid(P_ALL, 0, &info, WEXITED));
    FAILS(EINVAL, waitid(P_ALL, 0, &info, 0));
    FAILS(EINVAL, waitpid(-1, &status, 0x1000));
}

CASE(a_wait_that_hangs_not_gives_zero) {
    int gate[2], status;
    DO(pipe(gate));
    pid_t child = CHILD(char byte; close(gate[1]); read(gate[0], &byte, 1));
    CHECK(waitpid(child, &status, WNOHANG) == 0);
    close(gate[1]);
    ended(child);
}

CASE(waitid_can_leave_the_child) {
    siginfo_t info = {0};
    pid_t child = CHILD(_exit(3));
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    CHECK(info.si_pid == child && info.si_status == 3 && info.si_code == CLD_EXITED && info.si_signo == SIGCHLD);
    CHECK(ended(child) == 3 << 8);
}

static volatile int told, told_status, told_code;
static void tell(int signal, siginfo_t *info, void *context) {
    told = info->si_pid;
    told_status = info->si_status;
    told_code = info->si_code;
}

CASE(the_end_of_a_child_is_a_signal) {
    struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGCHLD, &action, NULL);
    pid_t child = CHILD(_exit(9));
    ended(child);
    while (!told) nap(1);
    CHECK(told == child && told_status == 9 && told_code == CLD_EXITED);
}

CASE(ignored_children_leave_nothing) {
    signal(SIGCHLD, SIG_IGN);
    CHILD(_exit(1));
    FAILS(ECHILD, wait(NULL));
}

CASE(a_vforked_child_runs_first_and_shares_memory) {
    static volatile int seen;
    seen = 0;
    pid_t child = vfork();
    if (child == 0) {
        seen = 5;
        _exit(6);
    }
    CHECK(seen == 5);
    CHECK(ended(child) == 6 << 8);
}

CASE(executing_replaces_the_program) {
    int ends[2];
    char buffer[64] = "";
    DO(pipe(ends));
    pid_t child = CHILD(dup2(ends[1], 1); execl("/bin/sh", "sh", "-c", "echo one $0 $VALUE", "two", NULL); _exit(99));
    CHECK(ended(child) == 0);
    CHECK(read(ends[0], buffer, 64) > 0 && memcmp(buffer, "one two", 7) == 0);
}

CASE(executing_knows_its_errors) {
    char *words[] = {"x", NULL};
    put("plain", "text");
    FAILS(ENOENT, execv("nothing", words));
    FAILS(EACCES, execv("plain", words));
    FAILS(EACCES, execv(".", words));
    DO(chmod("plain", 0755));
    FAILS(ENOEXEC, execv("plain", words));
    put("script", "#!/nothing/here\n");
    DO(chmod("script", 0755));
    FAILS(ENOENT, execv("script", words));
    FAILS(EFAULT, execv((char *)8, words));
    FAILS(EFAULT, execv("/bin/true", (char **)8));
}

CASE(close_on_exec_closes) {
    char command[64];
    int kept = DO(dup(0)), closed = DO(fcntl(0, F_DUPFD_CLOEXEC, 0));
    snprintf(command, sizeof command, "test -e /proc/self/fd/%d && ! test -e /proc/self/fd/%d", kept, closed);
    CHECK(ended(CHILD(execl("/bin/sh", "sh", "-c", command, NULL))) == 0);
}

CASE(a_spawned_program_gives_its_status) {
    pid_t child;
    char *words[] = {"sh", "-c", "exit 17", NULL};
    CHECK(posix_spawn(&child, "/bin/sh", NULL, NULL, words, environ) == 0);
    CHECK(ended(child) == 17 << 8);
    CHECK(posix_spawn(&child, "/nothing", NULL, NULL, words, environ) == ENOENT);
}

CASE(a_shell_pipeline_runs) {
    FILE *pipe_ = popen("printf 'b\\na\\nc\\n' | sort | tr '\\n' ' '", "r");
    char line[64] = "";
    CHECK(pipe_ && fgets(line, sizeof line, pipe_) && strcmp(line, "a b c ") == 0);
    CHECK(pclose(pipe_) == 0);
}

CASE(masks_and_ignored_signals_are_inherited) {
    sigset_t set;
    signal(SIGUSR1, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int status = ended(CHILD(raise(SIGUSR1), raise(SIGUSR2), _exit(4)));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);
}

CASE(a_parent_can_kill_its_child) {
    pid_t child = CHILD(for (;;) pause());
    CHECK(kill(child, SIGTERM) == 0);
    int status = ended(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    FAILS(ESRCH, kill(child, 0));
}

CASE(a_stopped_child_is_told_and_goes_on) {
    int status = 0;
    pid_t child = CHILD(for (;;) pause());
    DO(kill(child, SIGSTOP));
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    DO(kill(child, SIGCONT));
    CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    DO(kill(child, SIGKILL));
    ended(child);
}

CASE(a_group_is_waited_for_together) {
    int status;
    pid_t child = CHILD(setpgid(0, 0), _exit(0));
    setpgid(child, child);
    CHECK(waitpid(-child, &status, 0) == child);
    FAILS(ECHILD, waitpid(-child, &status, 0));
}

CASE(a_session_is_begun_once) {
    int status = ended(CHILD(int fine = setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid(); _exit(fine && setsid() == -1 ? 0 : 1)));
    CHECK(status == 0);
}

CASE(a_lock_of_the_parent_excludes_the_child) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    put("file", "x");
    int fd = DO(open("file", O_RDWR));
    DO(fcntl(fd, F_SETLK, &lock));
    int status = ended(CHILD(struct flock other = {.l_type = F_WRLCK, .l_whence = SEEK_SET}; int refused = fcntl(fd, F_SETLK, &other) == -1 && errno == EAGAIN;
                             fcntl(fd, F_GETLK, &other); _exit(refused && other.l_pid == getppid() ? 0 : 1)));
    CHECK(status == 0);
}

CASE(a_robust_lock_is_given_up_by_a_dying_process) {
    pthread_mutexattr_t attributes;
    pthread_mutex_t *mutex = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attributes);
    ended(CHILD(pthread_mutex_lock(mutex)));
    CHECK(pthread_mutex_lock(mutex) == EOWNERDEAD);
}

static void *lock_and_wait(void *mutex) {
    pthread_mutex_lock(mutex);
    *(volatile int *)((char *)mutex + 1024) = 1;
    for (;;) pause();
}

CASE(robust_locks_of_all_threads_are_given_up_by_a_dying_process) {
    pthread_mutexattr_t attributes;
    char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_t *ends = (void *)shared, *executes = (void *)(shared + 2048);
    pthread_mutex_init(ends, &attributes);
    pthread_mutex_init(executes, &attributes);
    pthread_t thread;
    ended(CHILD(pthread_create(&thread, NULL, lock_and_wait, ends); while (!((volatile char *)shared)[1024]) sched_yield(); _exit(0)));
    CHECK(pthread_mutex_lock(ends) == EOWNERDEAD);
    ended(CHILD(pthread_create(&thread, NULL, lock_and_wait, executes); while (!((volatile char *)shared)[3072]) sched_yield();
                execl("/proc/self/exe", "program", "no_case_of_this_name", (char *)NULL)));
    CHECK(pthread_mutex_lock(executes) == EOWNERDEAD);
}

CASE(memory_that_is_to_be_wiped_is_zero_in_the_child) {
    char *kept = pages(1), *wiped = pages(1);
    kept[0] = wiped[0] = 7;
    DO(madvise(wiped, PAGE, MADV_WIPEONFORK));
    int status = ended(CHILD(_exit(kept[0] * 10 + wiped[0])));
    CHECK(WEXITSTATUS(status) == 70 && wiped[0] == 7);
}

static void *in_thread(void *argument) {
    *(int *)argument = WEXITSTATUS(ended(CHILD(_exit(11))));
    return NULL;
}

CASE(a_thread_may_fork) {
    pthread_t thread;
    int status = 0;
    pthread_create(&thread, NULL, in_thread, &status);
    pthread_join(thread, NULL);
    CHECK(status == 11);
}

CASE(the_usage_of_children_is_summed) {
    struct rusage usage;
    int status;
    pid_t child = CHILD(for (volatile int i = 0; i < 1000000; i++));
    CHECK(wait4(child, &status, 0, &usage) == child && usage.ru_maxrss > 0);
    CHECK(getrusage(RUSAGE_CHILDREN, &usage) == 0 && usage.ru_maxrss > 0);
}

CASE(a_pidfd_is_ready_when_its_child_has_ended) {
    siginfo_t info = {0};
    pid_t child = CHILD(_exit(5));
    int fd = DO(syscall(SYS_pidfd_open, child, 0));
    CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_status == 5);
}

CASE(exit_handlers_of_a_process_run_in_it_alone) {
    int status = ended(CHILD(int inner = fork(); if (inner == 0) _exit(1); int last; waitpid(inner, &last, 0); _exit(last >> 8 == 1 ? 0 : 2)));
    CHECK(status == 0);
}
