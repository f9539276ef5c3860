// Who a process is and what it may use: ids, limits, prctl(2), uname(2), sysinfo(2), random bytes, refused calls.
#include "case.h"
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/utsname.h>

CASE(a_call_that_is_not_there_is_enosys_whatever_the_standard_error_is) {
    int kept = DO(dup(2));
    DO(dup2(DO(open("/dev/full", O_WRONLY)), 2));
    FAILS(ENOSYS, syscall(1000));
    DO(dup2(kept, 2));
}

CASE(one_may_become_who_one_is) {
    uid_t user = getuid();
    gid_t group = getgid();
    CHECK(geteuid() == user && getegid() == group);
    CHECK(setuid(user) == 0 && setgid(group) == 0);
    CHECK(setreuid(user, -1) == 0 && setreuid(-1, user) == 0 && setregid(group, group) == 0);
    CHECK(setresuid(user, user, user) == 0 && setresgid(-1, -1, group) == 0);
    CHECK(syscall(SYS_setfsuid, user) == user && syscall(SYS_setfsgid, group) == group);
    CHECK(setfsuid(-1) == (int)user);
}

CASE(three_ids_are_told) {
    uid_t a = 1, b = 2, c = 3;
    CHECK(getresuid(&a, &b, &c) == 0 && a == getuid() && b == a && c == a);
    FAILS(EFAULT, getresuid(&a, &b, (void *)8));
}

CASE(limits_are_told_and_lowered) {
    struct rlimit limit, now;
    for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
        CHECK(getrlimit(resource, &limit) == 0);
        CHECK(limit.rlim_cur <= limit.rlim_max);
        CHECK(setrlimit(resource, &limit) == 0);
    }
    CHECK(getrlimit(RLIMIT_CPU, &limit) == 0);
    limit.rlim_cur = 100000;
    CHECK(setrlimit(RLIMIT_CPU, &limit) == 0);
    CHECK(getrlimit(RLIMIT_CPU, &now) == 0 && now.rlim_cur == 100000 && now.rlim_max == limit.rlim_max);
}

CASE(limits_know_their_errors) {
    struct rlimit wrong = {5, 4}, now;
    FAILS(EINVAL, getrlimit(99, &now));
    FAILS(EINVAL, setrlimit(RLIMIT_NOFILE, &wrong));
    FAILS(EFAULT, syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, (void *)8));
    FAILS(ESRCH, syscall(SYS_prlimit64, 99999999, RLIMIT_NOFILE, NULL, &now));
}

CASE(the_stack_limit_is_eight_megabytes) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur == 8 << 20);
}

CASE(usage_is_told) {
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_maxrss > 0);
    CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
    FAILS(EINVAL, getrusage(77, &usage));
    FAILS(EFAULT, getrusage(RUSAGE_SELF, (void *)8));
    struct tms times_;
    CHECK(times(&times_) > 0);
}

CASE(prctl_keeps_what_it_is_told) {
    char name[16] = "";
    int value = -1;
    CHECK(prctl(PR_SET_NAME, "a very long name that is cut") == 0);
    CHECK(prctl(PR_GET_NAME, name) == 0 && strcmp(name, "a very long nam") == 0);
    CHECK(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
    CHECK(prctl(PR_GET_PDEATHSIG, &value) == 0 && value == SIGTERM);
    FAILS(EINVAL, prctl(PR_SET_PDEATHSIG, 99));
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    CHECK(prctl(PR_GET_CHILD_SUBREAPER, &value) == 0 && value == 1);
    CHECK(prctl(PR_SET_TIMERSLACK, 70000) == 0);
    CHECK(prctl(PR_GET_TIMERSLACK) == 70000);
    CHECK(prctl(PR_SET_TIMERSLACK, 50000) == 0);
}

CASE(no_new_privileges_cannot_be_taken_back) {
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    FAILS(EINVAL, prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

CASE(prctl_refuses_what_it_does_not_know) {
    FAILS(EINVAL, prctl(12345, 0, 0, 0, 0));
    FAILS(EFAULT, prctl(PR_SET_NAME, (char *)8));
    FAILS(EINVAL, prctl(PR_CAPBSET_READ, 99));
    CHECK(prctl(PR_GET_SECCOMP) == 0);
}

CASE(a_process_is_dumpable_until_it_says_otherwise) {
    CHECK(prctl(PR_GET_DUMPABLE) == 1);
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    CHECK(prctl(PR_GET_DUMPABLE) == 0);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
    FAILS(EINVAL, prctl(PR_SET_DUMPABLE, 7));
}

CASE(the_system_is_linux_on_x86_64) {
    struct utsname name;
    CHECK(uname(&name) == 0 && strcmp(name.sysname, "Linux") == 0 && strcmp(name.machine, "x86_64") == 0);
    FAILS(EFAULT, uname((void *)8));
}

CASE(sysinfo_tells_of_memory) {
    struct sysinfo info;
    CHECK(sysinfo(&info) == 0 && info.totalram > 0 && info.freeram <= info.totalram && info.mem_unit >= 1 && info.uptime > 0);
}

CASE(random_bytes_differ) {
    char a[32], b[32];
    CHECK(getrandom(a, 32, 0) == 32 && getrandom(b, 32, GRND_NONBLOCK) == 32);
    CHECK(memcmp(a, b, 32) != 0);
    FAILS(EINVAL, getrandom(a, 32, 0x100));
    FAILS(EFAULT, getrandom((void *)8, 32, 0));
}

CASE(capabilities_know_their_version) {
    struct __user_cap_header_struct header = {0, 0};
    struct __user_cap_data_struct data[2];
    FAILS(EINVAL, syscall(SYS_capget, &header, data));
    CHECK(header.version == _LINUX_CAPABILITY_VERSION_3);
    CHECK(syscall(SYS_capget, &header, data) == 0);
    FAILS(EFAULT, syscall(SYS_capget, (void *)8, data));
}

CASE(the_clock_may_be_asked_about) {
    struct timex state = {.modes = 0};
    CHECK(adjtimex(&state) >= 0);
    CHECK(state.tick > 0);
    FAILS(EFAULT, adjtimex((void *)8));
}

CASE(io_uring_is_refused_or_checks_its_arguments) {
    errno = 0;
    syscall(SYS_io_uring_setup, 1, NULL);
    int error = errno;
    CHECK(error == EPERM || error == ENOSYS || error == EFAULT);
}

CASE(numbers_without_a_call_are_enosys) {
    FAILS(ENOSYS, syscall(400));
    FAILS(ENOSYS, syscall(-10));
    FAILS(ENOSYS, syscall(1000000000));
    FAILS(ENOSYS, syscall(0x7fffffffffffffffl));
    FAILS(ENOSYS, syscall(SYS__sysctl, NULL));
    FAILS(ENOSYS, syscall(SYS_getpmsg, NULL));
}

CASE(the_personality_is_linux) { CHECK(syscall(SYS_personality, 0xffffffff) == 0); }

CASE(nothing_is_restarted_that_was_not_begun) { FAILS(EINTR, syscall(SYS_restart_syscall)); }

CASE(arch_prctl_tells_the_bases) {
    unsigned long base = 0;
    CHECK(syscall(SYS_arch_prctl, 0x1003, &base) == 0 && base != 0);
    FAILS(EPERM, syscall(SYS_arch_prctl, 0x1002, -4096l));
    FAILS(EINVAL, syscall(SYS_arch_prctl, 0x9999, 0));
    unsigned long before;
    CHECK(syscall(SYS_arch_prctl, 0x1004, &before) == 0);
    CHECK(syscall(SYS_arch_prctl, 0x1001, 0x12345000) == 0);
    CHECK(syscall(SYS_arch_prctl, 0x1004, &base) == 0 && base == 0x12345000);
    CHECK(syscall(SYS_arch_prctl, 0x1001, before) == 0);
}

CASE(clocks_go_forwards) {
    struct timespec before, after, fine;
    for (int clock = 0; clock < 8; clock++) {
        CHECK(clock_gettime(clock, &before) == 0 && clock_gettime(clock, &after) == 0);
        CHECK(after.tv_sec > before.tv_sec || (after.tv_sec == before.tv_sec && after.tv_nsec >= before.tv_nsec));
        CHECK(clock_getres(clock, &fine) == 0 && fine.tv_sec == 0);
    }
    FAILS(EINVAL, clock_gettime(77, &before));
    struct timeval now;
    CHECK(gettimeofday(&now, NULL) == 0 && now.tv_sec > 1500000000);
    CHECK(time(NULL) >= now.tv_sec);
}

CASE(sleeping_takes_its_time) {
    long before = milliseconds();
    struct timespec wrong = {0, 1000000000}, short_ = {0, 15000000};
    CHECK(nanosleep(&short_, NULL) == 0);
    CHECK(milliseconds() - before >= 14);
    FAILS(EINVAL, nanosleep(&wrong, NULL));
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &wrong, NULL) == EINVAL);
    struct timespec past = {1, 0};
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &past, NULL) == 0);
}
