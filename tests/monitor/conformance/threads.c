// Threads, futexes, scheduling: clone(2), clone3(2), futex(2), membarrier(2), sched_*(2), robust and PI locks.
#include "case.h"
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>

static long futex(void *word, int operation, int value, const void *timeout, void *second, int third) {
    return syscall(SYS_futex, word, operation, value, timeout, second, third);
}

static const struct timespec SOON = {0, 5000000};

CASE(a_wait_for_another_value_is_eagain) {
    int word = 1;
    FAILS(EAGAIN, futex(&word, FUTEX_WAIT, 2, NULL, NULL, 0));
    FAILS(EAGAIN, futex(&word, FUTEX_WAIT_BITSET, 2, NULL, NULL, -1));
}

CASE(a_wait_ends_at_its_timeout) {
    int word = 1;
    FAILS(ETIMEDOUT, futex(&word, FUTEX_WAIT, 1, &SOON, NULL, 0));
}

CASE(an_absolute_wait_in_the_past_ends_at_once) {
    int word = 1;
    struct timespec past = {1, 0};
    FAILS(ETIMEDOUT, futex(&word, FUTEX_WAIT_BITSET, 1, &past, NULL, -1));
    FAILS(ETIMEDOUT, futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 1, &past, NULL, -1));
}

CASE(a_wake_without_waiters_wakes_none) {
    int word = 1;
    CHECK(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
    CHECK(futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 1) == 0);
}

CASE(bad_futex_arguments_are_refused) {
    char bytes[16] __attribute__((aligned(8))) = {0};
    struct timespec wrong = {0, 2000000000};
    FAILS(EINVAL, futex(bytes + 1, FUTEX_WAKE, 1, NULL, NULL, 0));
    FAILS(EFAULT, futex((void *)0, FUTEX_WAIT, 0, NULL, NULL, 0));
    FAILS(EFAULT, futex((void *)8, FUTEX_WAKE, 0, NULL, NULL, 0));
    FAILS(EINVAL, futex(bytes, FUTEX_WAIT_BITSET, 0, NULL, NULL, 0));
    FAILS(EINVAL, futex(bytes, FUTEX_WAIT, 0, &wrong, NULL, 0));
    FAILS(EFAULT, futex(bytes, FUTEX_WAIT, 0, (void *)8, NULL, 0));
    FAILS(ENOSYS, futex(bytes, 77, 0, NULL, NULL, 0));
}

struct waiter {
    int *word;
    int operation, bits;
    _Atomic int tid;
    long result;
};

static void *wait_for(void *argument) {
    struct waiter *waiter = argument;
    waiter->tid = gettid();
    waiter->result = futex(waiter->word, waiter->operation, 0, NULL, NULL, waiter->bits);
    return NULL;
}

// Starts threads that wait, and returns when all are in the queue: a requeue onto the same word counts them.
static void start_waiters(pthread_t *threads, struct waiter *waiters, int count) {
    int elsewhere = 0;
    for (int i = 0; i < count; i++) pthread_create(threads + i, NULL, wait_for, waiters + i);
    long total = 0;
    while (total < count) {
        nap(2);
        total = futex(waiters[0].word, FUTEX_REQUEUE, 0, (void *)(long)INT_MAX, &elsewhere, 0);
        futex(&elsewhere, FUTEX_REQUEUE, 0, (void *)(long)INT_MAX, waiters[0].word, 0);
    }
}

CASE(a_wake_counts_whom_it_wakes) {
    pthread_t threads[4];
    struct waiter waiters[4];
    int word = 0;
    for (int i = 0; i < 4; i++) waiters[i] = (struct waiter){&word, FUTEX_WAIT, 0};
    start_waiters(threads, waiters, 4);
    CHECK(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0) == 1);
    CHECK(futex(&word, FUTEX_WAKE, 10, NULL, NULL, 0) == 3);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) CHECK(waiters[i].result == 0);
}

CASE(bits_choose_who_is_woken) {
    pthread_t threads[2];
    int word = 0;
    struct waiter waiters[2] = {{&word, FUTEX_WAIT_BITSET, 1}, {&word, FUTEX_WAIT_BITSET, 2}};
    for (int i = 0; i < 2; i++) waiters[i].operation |= FUTEX_PRIVATE_FLAG;
    for (int i = 0; i < 2; i++) pthread_create(threads + i, NULL, wait_for, waiters + i);
    while (futex(&word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 10, NULL, NULL, 2) == 0) nap(1);
    pthread_join(threads[1], NULL);
    while (futex(&word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 10, NULL, NULL, 1) == 0) nap(1);
    pthread_join(threads[0], NULL);
}

CASE(a_requeue_moves_waiters) {
    pthread_t threads[3];
    struct waiter waiters[3];
    int word = 0, other = 0;
    for (int i = 0; i < 3; i++) waiters[i] = (struct waiter){&word, FUTEX_WAIT, 0};
    start_waiters(threads, waiters, 3);
    FAILS(EAGAIN, futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)5l, &other, 7));
    CHECK(futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)5l, &other, 0) == 3);
    CHECK(futex(&other, FUTEX_WAKE, 10, NULL, NULL, 0) == 2);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

CASE(wake_op_changes_the_second_word) {
    int word = 0, other = 5;
    CHECK(futex(&word, FUTEX_WAKE_OP, 1, (void *)1l, &other, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5)) == 0);
    CHECK(other == 8);
    CHECK(futex(&word, FUTEX_WAKE_OP, 1, (void *)1l, &other, FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_GT, 100)) == 0);
    CHECK(other == 1);
}

CASE(a_pi_lock_is_taken_and_given_back) {
    int word = 0;
    CHECK(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0);
    CHECK((word & FUTEX_TID_MASK) == gettid());
    FAILS(EDEADLK, futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    FAILS(EDEADLK, futex(&word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
    CHECK(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == 0);
    CHECK(word == 0);
    FAILS(EPERM, futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
}

static pthread_mutex_t inheriting;
static long counted;

static void *count_up(void *mutex) {
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(mutex);
        counted++;
        pthread_mutex_unlock(mutex);
    }
    return NULL;
}

CASE(a_pi_mutex_excludes) {
    pthread_t threads[3];
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    CHECK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
    CHECK(pthread_mutex_init(&inheriting, &attributes) == 0);
    for (int i = 0; i < 3; i++) pthread_create(threads + i, NULL, count_up, &inheriting);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK(counted == 6000);
}

static void *lock_and_end(void *mutex) {
    pthread_mutex_lock(mutex);
    return NULL;
}

CASE(a_robust_mutex_tells_of_its_dead_owner) {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex, &attributes);
    pthread_create(&thread, NULL, lock_and_end, &mutex);
    pthread_join(thread, NULL);
    CHECK(pthread_mutex_lock(&mutex) == EOWNERDEAD);
    CHECK(pthread_mutex_consistent(&mutex) == 0);
    CHECK(pthread_mutex_unlock(&mutex) == 0);
    CHECK(pthread_mutex_lock(&mutex) == 0);
}

static pthread_mutex_t left;

static void *wait_for_left(void *result) {
    *(int *)result = pthread_mutex_lock(&left);
    return NULL;
}

static _Atomic int held;

static void *hold_then_end(void *gate) {
    pthread_mutex_lock(&left);
    held = 1;
    futex(gate, FUTEX_WAIT, 0, NULL, NULL, 0);
    return NULL;
}

CASE(the_end_of_an_owner_wakes_who_waits_for_a_robust_mutex) {
    pthread_t owner, waiter;
    int gate = 0, result = -1;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&left, &attributes);
    pthread_create(&owner, NULL, hold_then_end, &gate);
    while (!held) nap(1);
    pthread_create(&waiter, NULL, wait_for_left, &result);
    nap(10);
    gate = 1;
    futex(&gate, FUTEX_WAKE, 1, NULL, NULL, 0);
    pthread_join(owner, NULL);
    pthread_join(waiter, NULL);
    CHECK(result == EOWNERDEAD);
}

CASE(a_robust_pi_mutex_tells_of_its_dead_owner) {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&mutex, &attributes);
    pthread_create(&thread, NULL, lock_and_end, &mutex);
    pthread_join(thread, NULL);
    CHECK(pthread_mutex_lock(&mutex) == EOWNERDEAD);
}

CASE(the_robust_list_is_given_back) {
    void *head = NULL;
    size_t length = 0;
    CHECK(syscall(SYS_get_robust_list, 0, &head, &length) == 0);
    CHECK(head != NULL && length == 24);
    FAILS(EINVAL, syscall(SYS_set_robust_list, head, 25));
    FAILS(ESRCH, syscall(SYS_get_robust_list, 99999999, &head, &length));
}

CASE(membarrier_names_its_commands) {
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    CHECK(commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    CHECK(commands & MEMBARRIER_CMD_GLOBAL);
    FAILS(EINVAL, syscall(SYS_membarrier, 1 << 20, 0, 0));
    FAILS(EINVAL, syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 77, 0));
}

CASE(an_expedited_barrier_needs_registration) {
    FAILS(EPERM, syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) == 0);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) == 0);
}

static int cloned_word;

static int child_body(void *argument) {
    *(int *)argument = gettid() == cloned_word ? 1 : 2;
    return 0;
}

CASE(clone3_makes_a_thread) {
    static _Atomic int done;
    static pid_t tid, cleared = -1;
    char *stack = pages(16);
    struct clone_args args = {
        .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID,
        .stack = (uintptr_t)stack,
        .stack_size = 16 * PAGE,
        .parent_tid = (uintptr_t)&tid,
        .child_tid = (uintptr_t)&cleared,
    };
    long result;
    __asm__ volatile("syscall\n test %%rax, %%rax\n jnz 1f\n lock incl %1\n mov $60, %%eax\n xor %%edi, %%edi\n syscall\n1:"
                     : "=a"(result), "+m"(done)
                     : "0"(SYS_clone3), "D"(&args), "S"(sizeof args)
                     : "rcx", "r11", "memory");
    CHECK(result > 0 && result == tid);
    while (*(volatile pid_t *)&cleared != 0) futex(&cleared, FUTEX_WAIT, -1, &SOON, NULL, 0);
    CHECK(done == 1);
}

CASE(clone3_checks_the_size_of_its_arguments) {
    struct {
        struct clone_args args;
        long more;
    } room = {.more = 1};
    FAILS(EINVAL, syscall(SYS_clone3, &room, 32));
    FAILS(E2BIG, syscall(SYS_clone3, &room, sizeof room));
    FAILS(E2BIG, syscall(SYS_clone3, &room, 5000));
    FAILS(EFAULT, syscall(SYS_clone3, (void *)8, 64));
    room.args.flags = CLONE_THREAD;
    FAILS(EINVAL, syscall(SYS_clone3, &room, sizeof room.args));
    room.args.flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
    room.args.exit_signal = SIGCHLD;
    FAILS(EINVAL, syscall(SYS_clone3, &room, sizeof room.args));
}

CASE(a_thread_has_a_number_of_its_own) {
    pthread_t thread;
    int tid = 0;
    struct waiter waiter = {&tid, FUTEX_WAIT_BITSET, 0};
    pthread_create(&thread, NULL, wait_for, &waiter);
    pthread_join(thread, NULL);
    CHECK(waiter.tid > 0 && waiter.tid != gettid());
    CHECK(gettid() == getpid());
}

static void *just_end(void *argument) { return argument; }

CASE(hundreds_of_threads_come_and_go) {
    pthread_t threads[8];
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 8; i++) CHECK(pthread_create(threads + i, NULL, just_end, NULL) == 0);
        for (int i = 0; i < 8; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

CASE(thread_local_memory_is_apart) {
    static __thread int own = 7;
    static void *results[2];
    void *set(void *value) {
        int before = own;
        own = (int)(long)value;
        nap(5);
        return (void *)(long)(before == 7 && own == (int)(long)value);
    }
    pthread_t threads[2];
    for (long i = 0; i < 2; i++) pthread_create(threads + i, NULL, set, (void *)(i + 100));
    for (int i = 0; i < 2; i++) pthread_join(threads[i], results + i);
    CHECK(results[0] && results[1] && own == 7);
}

CASE(a_condition_variable_passes_turns) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
    static int turn;
    void *take_turns(void *mine) {
        for (int i = 0; i < 200; i++) {
            pthread_mutex_lock(&mutex);
            while (turn % 2 != (int)(long)mine) pthread_cond_wait(&changed, &mutex);
            turn++;
            pthread_cond_broadcast(&changed);
            pthread_mutex_unlock(&mutex);
        }
        return NULL;
    }
    pthread_t thread;
    pthread_create(&thread, NULL, take_turns, (void *)1l);
    take_turns((void *)0l);
    pthread_join(thread, NULL);
    CHECK(turn == 400);
}

CASE(a_barrier_holds_until_all_are_there) {
    static pthread_barrier_t barrier;
    static _Atomic int before, serial;
    pthread_barrier_init(&barrier, NULL, 4);
    void *come(void *argument) {
        before++;
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) serial++;
        return (void *)(long)(before == 4);
    }
    pthread_t threads[3];
    void *result;
    for (int i = 0; i < 3; i++) pthread_create(threads + i, NULL, come, NULL);
    CHECK(come(NULL));
    for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], &result) == 0 && result);
    CHECK(serial == 1);
}

CASE(a_cancelled_thread_ends) {
    pthread_t thread;
    void *result;
    void *sleep_long(void *argument) {
        for (;;) nap(1000);
    }
    pthread_create(&thread, NULL, sleep_long, NULL);
    CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
}

CASE(a_thread_has_a_name) {
    char name[20] = "";
    CHECK(pthread_setname_np(pthread_self(), "a name") == 0);
    CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0 && strcmp(name, "a name") == 0);
    CHECK(strcmp(content("/proc/thread-self/comm"), "a name\n") == 0);
}

CASE(affinity_is_kept) {
    cpu_set_t all, one, now;
    CPU_ZERO(&all);
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0 && CPU_COUNT(&all) >= 1);
    int last = 0;
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &all)) last = i;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&one, &now));
    CHECK(sched_getcpu() == last);
    CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
}

CASE(affinity_knows_its_errors) {
    cpu_set_t none;
    CPU_ZERO(&none);
    FAILS(EINVAL, sched_setaffinity(0, sizeof none, &none));
    FAILS(ESRCH, sched_getaffinity(99999999, sizeof none, &none));
    FAILS(ESRCH, sched_setaffinity(99999999, sizeof none, &none));
    FAILS(EFAULT, sched_setaffinity(0, 8, (void *)8));
    FAILS(EINVAL, syscall(SYS_sched_getaffinity, 0, 3, &none));
}

CASE(the_policy_is_other) {
    struct sched_param parameter = {7};
    CHECK(sched_getscheduler(0) == SCHED_OTHER);
    CHECK(sched_getparam(0, &parameter) == 0 && parameter.sched_priority == 0);
    CHECK(sched_setscheduler(0, SCHED_OTHER, &parameter) == 0);
    FAILS(ESRCH, sched_getscheduler(99999999));
    FAILS(EINVAL, sched_getscheduler(-1));
    parameter.sched_priority = 5;
    FAILS(EINVAL, sched_setscheduler(0, SCHED_OTHER, &parameter));
    FAILS(EINVAL, sched_setparam(0, &parameter));
    FAILS(EINVAL, sched_setscheduler(0, 77, &parameter));
}

CASE(batch_and_idle_are_kept) {
    struct sched_param parameter = {0};
    CHECK(sched_setscheduler(0, SCHED_BATCH, &parameter) == 0);
    CHECK(sched_getscheduler(0) == SCHED_BATCH);
    CHECK(sched_setscheduler(0, SCHED_OTHER, &parameter) == 0);
}

CASE(priorities_have_their_ranges) {
    CHECK(sched_get_priority_max(SCHED_FIFO) == 99 && sched_get_priority_min(SCHED_FIFO) == 1);
    CHECK(sched_get_priority_max(SCHED_RR) == 99 && sched_get_priority_min(SCHED_RR) == 1);
    CHECK(sched_get_priority_max(SCHED_OTHER) == 0 && sched_get_priority_min(SCHED_BATCH) == 0);
    FAILS(EINVAL, sched_get_priority_max(77));
    FAILS(EINVAL, sched_get_priority_min(-1));
}

CASE(a_slice_of_time_is_told) {
    struct timespec slice = {-1, -1};
    CHECK(sched_rr_get_interval(0, &slice) == 0 && slice.tv_sec == 0 && slice.tv_nsec >= 0);
    FAILS(ESRCH, sched_rr_get_interval(99999999, &slice));
    FAILS(EINVAL, sched_rr_get_interval(-1, &slice));
}

CASE(sched_getattr_tells_policy_and_nice) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
        uint32_t low, high;
    } attributes = {0};
    CHECK(syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0);
    CHECK(attributes.size == sizeof attributes && attributes.policy == SCHED_OTHER);
    SHOW(attributes.nice == getpriority(PRIO_PROCESS, 0));
    FAILS(EINVAL, syscall(SYS_sched_getattr, 0, &attributes, 10, 0));
    FAILS(EINVAL, syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 1));
    CHECK(syscall(SYS_sched_setattr, 0, &attributes, 0) == 0);
}

CASE(niceness_goes_up_and_is_kept) {
    CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0);
    CHECK(getpriority(PRIO_PROCESS, 0) == 5);
    FAILS(EINVAL, setpriority(7, 0, 5));
    FAILS(EINVAL, getpriority(7, 0));
    FAILS(ESRCH, getpriority(PRIO_PROCESS, 99999999));
}

CASE(yielding_is_always_possible) { CHECK(sched_yield() == 0); }

CASE(set_tid_address_gives_the_number) {
    static int word;
    CHECK(syscall(SYS_set_tid_address, &word) == gettid());
}

CASE(futex_waitv_is_there_or_not_at_all) {
    errno = 0;
    syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0);
    int error = errno;
    CHECK(error == EINVAL || error == ENOSYS);
}

CASE(a_reader_writer_lock_lets_readers_together) {
    static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
    CHECK(pthread_rwlock_rdlock(&lock) == 0);
    CHECK(pthread_rwlock_tryrdlock(&lock) == 0);
    CHECK(pthread_rwlock_trywrlock(&lock) == EBUSY);
    CHECK(pthread_rwlock_unlock(&lock) == 0 && pthread_rwlock_unlock(&lock) == 0);
    CHECK(pthread_rwlock_trywrlock(&lock) == 0);
    CHECK(pthread_rwlock_unlock(&lock) == 0);
}

CASE(a_timed_lock_gives_up) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    struct timespec soon;
    pthread_mutex_lock(&mutex);
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 5000000;
    if (soon.tv_nsec >= 1000000000) soon.tv_nsec -= 1000000000, soon.tv_sec++;
    CHECK(pthread_mutex_timedlock(&mutex, &soon) == ETIMEDOUT);
}
