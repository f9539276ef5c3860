// mmap(2), munmap(2), mprotect(2), mremap(2), madvise(2), mincore(2), mlock(2), brk(2).
#include "case.h"
#include <sys/resource.h>

static int readable(const void *address) {
    static int ends[2] = {-1, -1};
    char byte;
    if (ends[0] < 0) DO(pipe(ends));
    if (write(ends[1], address, 1) != 1) return 0;
    DO(read(ends[0], &byte, 1));
    return 1;
}

CASE(anonymous_memory_begins_as_zeroes) {
    char *at = pages(16);
    long sum = 0;
    for (long i = 0; i < 16 * PAGE; i++) sum += at[i];
    CHECK(sum == 0);
}

CASE(a_length_of_zero_is_einval) {
    FAILS(EINVAL, mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    FAILS(EINVAL, munmap((void *)0x10000000, 0));
}

CASE(an_endless_length_is_enomem) {
    FAILS(ENOMEM, mmap(NULL, ~0ul - 8191, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    FAILS(ENOMEM, mmap(NULL, 1ul << 62, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

CASE(neither_private_nor_shared_is_einval) { FAILS(EINVAL, mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0)); }

CASE(an_odd_offset_is_einval) {
    put("file", "x");
    int fd = DO(open("file", O_RDONLY));
    FAILS(EINVAL, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 100));
}

CASE(a_closed_descriptor_is_ebadf) { FAILS(EBADF, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 777, 0)); }

CASE(writing_through_a_read_only_descriptor_is_eacces) {
    put("file", "x");
    int fd = DO(open("file", O_RDONLY));
    FAILS(EACCES, mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0));
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) != MAP_FAILED);
    int blind = DO(open("file", O_WRONLY));
    FAILS(EACCES, mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, blind, 0));
}

CASE(a_directory_cannot_be_mapped) {
    int fd = DO(open(".", O_RDONLY));
    FAILS(ENODEV, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
}

CASE(a_pipe_cannot_be_mapped) {
    int ends[2];
    DO(pipe(ends));
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, ends[0], 0));
}

CASE(dev_zero_maps_as_zeroes) {
    int fd = DO(open("/dev/zero", O_RDWR));
    char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(at != MAP_FAILED && at[0] == 0 && at[PAGE] == 0);
    at[0] = 1;
    char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED && shared[0] == 0);
    shared[5] = 1;
    CHECK(shared[5] == 1);
}

CASE(a_fixed_mapping_replaces_what_is_there) {
    char *at = pages(3);
    memset(at, 7, 3 * PAGE);
    CHECK(mmap(at + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + PAGE);
    CHECK(at[0] == 7 && at[PAGE] == 0 && at[2 * PAGE] == 7);
}

CASE(noreplace_refuses_what_is_taken) {
    char *at = pages(2);
    FAILS(EEXIST, mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    DO(munmap(at, PAGE));
    CHECK(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at);
}

CASE(a_free_hint_is_taken) {
    char *at = pages(4);
    DO(munmap(at, 4 * PAGE));
    CHECK(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at);
}

CASE(a_taken_hint_is_passed_over) {
    char *at = pages(1);
    char *other = mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(other != MAP_FAILED && other != at);
}

CASE(map_32bit_is_below_two_gigabytes) {
    char *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(at != MAP_FAILED && (uintptr_t)at < 1ul << 31);
}

CASE(address_zero_cannot_be_taken_by_accident) {
    char *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != NULL);
}

CASE(a_hole_in_the_middle_leaves_both_sides) {
    char *at = pages(3);
    memset(at, 1, 3 * PAGE);
    CHECK(munmap(at + PAGE, PAGE) == 0);
    CHECK(readable(at) && !readable(at + PAGE) && readable(at + 2 * PAGE));
}

CASE(unmapping_nothing_is_no_error) {
    char *at = pages(2);
    CHECK(munmap(at, 2 * PAGE) == 0);
    CHECK(munmap(at, 2 * PAGE) == 0);
}

CASE(unmapping_at_an_odd_address_is_einval) {
    char *at = pages(1);
    FAILS(EINVAL, munmap(at + 1, PAGE));
}

CASE(protection_over_a_hole_is_enomem) {
    char *at = pages(3);
    DO(munmap(at + PAGE, PAGE));
    FAILS(ENOMEM, mprotect(at, 3 * PAGE, PROT_READ));
    FAILS(ENOMEM, mprotect(at + PAGE, PAGE, PROT_READ));
}

CASE(protection_over_a_hole_changes_what_is_before_it) {
    char *at = pages(3);
    DO(munmap(at + PAGE, PAGE));
    FAILS(ENOMEM, mprotect(at, 3 * PAGE, PROT_NONE));
    CHECK(!readable(at));
    CHECK(readable(at + 2 * PAGE));
}

CASE(protection_at_an_odd_address_is_einval) {
    char *at = pages(1);
    FAILS(EINVAL, mprotect(at + 1, PAGE, PROT_READ));
    FAILS(EINVAL, mprotect(at, PAGE, 0x100));
}

CASE(a_call_into_protected_memory_is_efault) {
    char *at = pages(1);
    int fd = DO(open("/dev/zero", O_RDONLY));
    DO(mprotect(at, PAGE, PROT_READ));
    FAILS(EFAULT, read(fd, at, 8));
    DO(mprotect(at, PAGE, PROT_NONE));
    FAILS(EFAULT, write(1, at, 8));
}

CASE(a_read_that_reaches_a_hole_is_short) {
    char *at = pages(2);
    int fd = DO(open("/dev/zero", O_RDONLY));
    DO(munmap(at + PAGE, PAGE));
    SHOW(read(fd, at + PAGE - 100, 200));
}

CASE(shared_memory_is_one_through_two_mappings) {
    int fd = DO(memfd_create("shared", 0));
    DO(ftruncate(fd, PAGE));
    char *a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    a[7] = 42;
    CHECK(b[7] == 42);
    char byte;
    CHECK(pread(fd, &byte, 1, 7) == 1 && byte == 42);
}

CASE(a_private_file_mapping_keeps_its_writes_to_itself) {
    put("file", "original");
    int fd = DO(open("file", O_RDWR));
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    at[0] = 'X';
    char byte;
    CHECK(pread(fd, &byte, 1, 0) == 1 && byte == 'o');
}

CASE(a_mapping_outlives_its_descriptor_and_its_name) {
    put("file", "here");
    int fd = DO(open("file", O_RDWR));
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    unlink("file");
    CHECK(memcmp(at, "here", 4) == 0);
    at[0] = 'H';
    CHECK(at[0] == 'H');
}

CASE(bytes_behind_the_end_within_the_page_are_zeroes) {
    put("file", "abc");
    int fd = DO(open("file", O_RDONLY));
    char *at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(at[2] == 'c' && at[3] == 0 && at[PAGE - 1] == 0);
}

CASE(mremap_shrinks_in_place) {
    char *at = pages(3);
    at[0] = 9;
    CHECK(mremap(at, 3 * PAGE, PAGE, 0) == at);
    CHECK(at[0] == 9 && !readable(at + PAGE));
}

CASE(mremap_grows_in_place_where_there_is_room) {
    char *at = pages(4);
    DO(munmap(at + PAGE, 3 * PAGE));
    at[0] = 9;
    CHECK(mremap(at, PAGE, 3 * PAGE, 0) == at);
    CHECK(at[0] == 9 && at[2 * PAGE] == 0);
    at[3 * PAGE - 1] = 1;
}

CASE(mremap_does_not_grow_over_others) {
    char *at = pages(3);
    DO(mprotect(at + PAGE, PAGE, PROT_READ));
    FAILS(ENOMEM, mremap(at, PAGE, 2 * PAGE, 0));
}

CASE(mremap_moves_with_the_content) {
    char *at = pages(3);
    DO(mprotect(at + 2 * PAGE, PAGE, PROT_READ));
    at[0] = 1;
    at[2 * PAGE - 1] = 2;
    char *to = mremap(at, 2 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK(to != MAP_FAILED && to != at);
    CHECK(to[0] == 1 && to[2 * PAGE - 1] == 2 && to[64 * PAGE - 1] == 0);
    CHECK(!readable(at));
}

CASE(mremap_to_a_fixed_place_replaces_it) {
    char *at = pages(1), *to = pages(1);
    at[0] = 5;
    to[0] = 6;
    CHECK(mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    CHECK(to[0] == 5 && !readable(at));
}

CASE(mremap_refuses_overlap_and_bad_flags) {
    char *at = pages(4);
    FAILS(EINVAL, mremap(at, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at + PAGE));
    FAILS(EINVAL, mremap(at, PAGE, PAGE, MREMAP_FIXED, at));
    FAILS(EINVAL, mremap(at + 1, PAGE, PAGE, 0));
    FAILS(EINVAL, mremap(at, PAGE, 0, 0));
    FAILS(EINVAL, mremap(at, PAGE, PAGE, 64));
}

CASE(mremap_of_a_hole_is_efault) {
    char *at = pages(2);
    DO(munmap(at, 2 * PAGE));
    FAILS(EFAULT, mremap(at, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
}

CASE(mremap_dontunmap_leaves_empty_memory_behind) {
    char *at = pages(2);
    at[0] = 3;
    char *to = mremap(at, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    CHECK(to != MAP_FAILED && to != at);
    CHECK(to[0] == 3 && at[0] == 0);
    at[0] = 4;
    CHECK(to[0] == 3);
    FAILS(EINVAL, mremap(at, 2 * PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL));
}

CASE(mremap_of_nothing_doubles_shared_memory) {
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    at[0] = 8;
    char *to = mremap(at, 0, PAGE, MREMAP_MAYMOVE);
    CHECK(to != MAP_FAILED && to != at);
    CHECK(to[0] == 8);
    to[1] = 9;
    CHECK(at[1] == 9);
    FAILS(EINVAL, mremap(pages(1), 0, PAGE, MREMAP_MAYMOVE));
}

CASE(a_grown_file_mapping_shows_more_of_the_file) {
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    DO(ftruncate(fd, 3 * PAGE));
    DO(pwrite(fd, "three", 5, 2 * PAGE));
    char *room = pages(8);
    char *at = mmap(room, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    DO(munmap(room + PAGE, 7 * PAGE));
    CHECK(mremap(at, PAGE, 3 * PAGE, 0) == at);
    CHECK(memcmp(at + 2 * PAGE, "three", 5) == 0);
    char *to = mremap(at, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, pages(16));
    CHECK(to != MAP_FAILED && memcmp(to + 2 * PAGE, "three", 5) == 0);
}

CASE(dontneed_makes_anonymous_memory_zero) {
    char *at = pages(2);
    memset(at, 1, 2 * PAGE);
    CHECK(madvise(at, PAGE, MADV_DONTNEED) == 0);
    CHECK(at[0] == 0 && at[PAGE] == 1);
}

CASE(dontneed_brings_back_a_private_file) {
    put("file", "original");
    int fd = DO(open("file", O_RDONLY));
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    at[0] = 'X';
    CHECK(madvise(at, PAGE, MADV_DONTNEED) == 0);
    CHECK(at[0] == 'o');
}

CASE(advice_about_a_hole_is_enomem) {
    char *at = pages(2);
    DO(munmap(at + PAGE, PAGE));
    FAILS(ENOMEM, madvise(at, 2 * PAGE, MADV_DONTNEED));
    FAILS(EINVAL, madvise(at + 1, PAGE, MADV_DONTNEED));
    FAILS(EINVAL, madvise(at, PAGE, 12345));
    CHECK(madvise(at, 0, MADV_DONTNEED) == 0);
}

CASE(hints_are_accepted) {
    char *at = pages(2);
    CHECK(madvise(at, PAGE, MADV_NORMAL) == 0);
    CHECK(madvise(at, PAGE, MADV_RANDOM) == 0);
    CHECK(madvise(at, PAGE, MADV_SEQUENTIAL) == 0);
    CHECK(madvise(at, PAGE, MADV_WILLNEED) == 0);
    CHECK(madvise(at, PAGE, MADV_DONTDUMP) == 0);
    CHECK(madvise(at, PAGE, MADV_DODUMP) == 0);
    CHECK(madvise(at, PAGE, MADV_FREE) == 0);
    CHECK(madvise(at, PAGE, MADV_COLD) == 0);
    CHECK(madvise(at, PAGE, MADV_POPULATE_WRITE) == 0);
    CHECK(madvise(at, PAGE, MADV_POPULATE_READ) == 0);
}

CASE(free_is_for_private_anonymous_memory) {
    put("file", "x");
    int fd = DO(open("file", O_RDONLY));
    char *at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    FAILS(EINVAL, madvise(at, PAGE, MADV_FREE));
    FAILS(EINVAL, madvise(at, PAGE, MADV_WIPEONFORK));
    CHECK(madvise(pages(1), PAGE, MADV_WIPEONFORK) == 0);
    CHECK(madvise(pages(1), PAGE, MADV_KEEPONFORK) == 0);
}

CASE(remove_punches_a_hole_into_shared_memory) {
    int fd = DO(memfd_create("shared", 0));
    DO(ftruncate(fd, 2 * PAGE));
    char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memset(at, 1, 2 * PAGE);
    CHECK(madvise(at, PAGE, MADV_REMOVE) == 0);
    CHECK(at[0] == 0 && at[PAGE] == 1);
    FAILS(EINVAL, madvise(pages(1), PAGE, MADV_REMOVE));
}

CASE(mincore_tells_what_was_touched) {
    char *at = pages(4);
    unsigned char vector[4] = {9, 9, 9, 9};
    at[PAGE] = 1;
    CHECK(mincore(at, 4 * PAGE, vector) == 0);
    CHECK((vector[0] & 1) == 0 && (vector[1] & 1) == 1 && (vector[3] & 1) == 0);
}

CASE(mincore_of_a_hole_is_enomem) {
    char *at = pages(3);
    unsigned char vector[3];
    DO(munmap(at + PAGE, PAGE));
    FAILS(ENOMEM, mincore(at, 3 * PAGE, vector));
    FAILS(EINVAL, mincore(at + 1, PAGE, vector));
    FAILS(EFAULT, mincore(at, PAGE, (void *)8));
}

CASE(locking_needs_mapped_memory) {
    char *at = pages(2);
    CHECK(mlock(at, PAGE) == 0);
    CHECK(munlock(at, PAGE) == 0);
    CHECK(mlock2(at, PAGE, MLOCK_ONFAULT) == 0);
    FAILS(EINVAL, mlock2(at, PAGE, 8));
    DO(munmap(at, 2 * PAGE));
    FAILS(ENOMEM, mlock(at, PAGE));
}

CASE(mlockall_knows_its_flags) {
    FAILS(EINVAL, mlockall(0));
    FAILS(EINVAL, mlockall(64));
    CHECK(munlockall() == 0);
}

CASE(msync_needs_one_kind_and_mapped_memory) {
    char *at = pages(2);
    CHECK(msync(at, PAGE, MS_SYNC) == 0);
    CHECK(msync(at, PAGE, MS_ASYNC | MS_INVALIDATE) == 0);
    FAILS(EINVAL, msync(at, PAGE, MS_SYNC | MS_ASYNC));
    FAILS(EINVAL, msync(at + 1, PAGE, MS_SYNC));
    DO(munmap(at, 2 * PAGE));
    FAILS(ENOMEM, msync(at, PAGE, MS_SYNC));
}

CASE(the_heap_grows_and_shrinks) {
    char *end = sbrk(0);
    CHECK(sbrk(3 * PAGE) == end);
    end[3 * PAGE - 1] = 1;
    CHECK(brk(end) == 0);
    CHECK(sbrk(0) == end);
    CHECK(sbrk(PAGE) == end && end[0] == 0);
}

CASE(code_can_be_written_then_run) {
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
    char *at = pages(1);
    memcpy(at, code, sizeof code);
    CHECK(mprotect(at, PAGE, PROT_READ | PROT_EXEC) == 0);
    CHECK(((int (*)(void))at)() == 42);
    CHECK(mprotect(at, PAGE, PROT_READ | PROT_WRITE) == 0);
    at[1] = 43;
    CHECK(mprotect(at, PAGE, PROT_READ | PROT_EXEC) == 0);
    CHECK(((int (*)(void))at)() == 43);
}

CASE(code_can_be_changed_while_it_may_run) {
    static const unsigned char code[] = {0xb8, 1, 0, 0, 0, 0xc3};
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(at, code, sizeof code);
    for (int i = 1; i < 100; i++) {
        at[1] = i;
        CHECK(((int (*)(void))at)() == i);
    }
}

CASE(a_huge_reservation_costs_nothing) {
    char *at = mmap(NULL, 16l << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    CHECK(mprotect(at + (8l << 30), PAGE, PROT_READ | PROT_WRITE) == 0);
    at[8l << 30] = 1;
    CHECK(munmap(at, 16l << 30) == 0);
}

CASE(populate_makes_pages_present) {
    unsigned char vector[2] = {0, 0};
    char *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    CHECK(mincore(at, 2 * PAGE, vector) == 0 && (vector[0] & vector[1] & 1));
}

CASE(a_growing_mapping_grows_down) {
    char *room = pages(1024);
    DO(munmap(room, 1024 * PAGE));
    char *at = mmap(room + 1023 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    CHECK(at == room + 1023 * PAGE);
    at[0] = 1;
    at[-8] = 2;
    at[-100 * PAGE] = 3;
    CHECK(at[-8] == 2 && at[-100 * PAGE] == 3 && at[-50 * PAGE] == 0);
}

CASE(the_stack_grows_by_megabytes) {
    volatile char *low = __builtin_alloca(4 << 20);
    low[0] = 1;
    CHECK(low[0] == 1);
}

CASE(mapping_many_files_side_by_side_keeps_their_ends_apart) {
    put("one", "1");
    put("two", "2");
    char *room = pages(4);
    int one = DO(open("one", O_RDONLY)), two = DO(open("two", O_RDONLY));
    DO(mmap(room, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, one, 0));
    DO(mmap(room + 2 * PAGE, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, two, 0));
    CHECK(room[0] == '1' && room[2 * PAGE] == '2');
    CHECK(readable(room) && !readable(room + PAGE) && readable(room + 2 * PAGE) && !readable(room + 3 * PAGE));
}

#define MEBIBYTE (1l << 20)

// Memory of which far more is mapped than is there.
static char *vast(void) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *at = DO(mmap(NULL, 2048 * MEBIBYTE, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0));
    return (char *)(((uintptr_t)at + 2 * MEBIBYTE - 1) & -(uintptr_t)(2 * MEBIBYTE));
}

CASE(a_writable_reservation_costs_what_is_touched) {
    char *at = vast();
    for (long i = 0; i < 8; i++) at[i * 200 * MEBIBYTE] = (char)(i + 1);
    for (long i = 0; i < 8; i++) CHECK(at[i * 200 * MEBIBYTE] == i + 1 && at[i * 200 * MEBIBYTE + 3 * MEBIBYTE] == 0);
}

CASE(a_reservation_made_writable_later_costs_what_is_touched) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *at = DO(mmap(NULL, 2048 * MEBIBYTE, PROT_NONE, flags, -1, 0));
    CHECK(mprotect(at, 2048 * MEBIBYTE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    at[1000 * MEBIBYTE] = 7;
    CHECK(madvise(at, 2048 * MEBIBYTE, MADV_DONTNEED) == 0);
    CHECK(at[1000 * MEBIBYTE] == 0);
    CHECK(mprotect(at, 1001 * MEBIBYTE, PROT_NONE) == 0 && !readable(at + 1000 * MEBIBYTE) && readable(at + 1001 * MEBIBYTE));
}

CASE(system_calls_fill_memory_that_nobody_has_touched) {
    char *at = vast(), text[] = "over the edge of two mebibytes";
    int ends[2];
    DO(pipe(ends));
    DO(write(ends[1], text, sizeof text));
    CHECK(read(ends[0], at + 2 * MEBIBYTE - 7, 1 << 16) == sizeof text);
    CHECK(!strcmp(at + 2 * MEBIBYTE - 7, text));
    struct stat *status = (struct stat *)(at + 4 * MEBIBYTE);
    CHECK(fstat(ends[0], status) == 0 && S_ISFIFO(status->st_mode));
    put("file", "content");
    int file = DO(open("file", O_RDONLY));
    struct iovec parts[] = {{at + 6 * MEBIBYTE, 3}, {at + 8 * MEBIBYTE, 100 * MEBIBYTE}};
    CHECK(readv(file, parts, 2) == 7 && !memcmp(at + 6 * MEBIBYTE, "con", 3) && !memcmp(at + 8 * MEBIBYTE, "tent", 5));
}

CASE(what_nobody_has_touched_can_be_cut_and_moved) {
    char *at = vast();
    at[0] = 1;
    at[10 * MEBIBYTE] = 2;
    CHECK(munmap(at + 3 * MEBIBYTE, 2 * MEBIBYTE) == 0);
    CHECK(readable(at + 3 * MEBIBYTE - 1) && !readable(at + 4 * MEBIBYTE) && readable(at + 5 * MEBIBYTE));
    CHECK(mprotect(at + 7 * MEBIBYTE, PAGE, PROT_READ) == 0);
    at[7 * MEBIBYTE - 1] = at[7 * MEBIBYTE + PAGE] = 3;
    CHECK(at[7 * MEBIBYTE] == 0);
    char *moved = mremap(at + 9 * MEBIBYTE, 8 * MEBIBYTE, 64 * MEBIBYTE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved[MEBIBYTE] == 2 && moved[5 * MEBIBYTE] == 0 && moved[63 * MEBIBYTE] == 0);
    moved[63 * MEBIBYTE] = 4;
    char *longer = mremap(moved, 64 * MEBIBYTE, 80 * MEBIBYTE, MREMAP_MAYMOVE);
    CHECK(longer != MAP_FAILED && longer[63 * MEBIBYTE] == 4 && longer[79 * MEBIBYTE] == 0);
}

CASE(a_child_has_its_own_copy_of_what_is_touched_and_of_what_is_not) {
    char *at = vast();
    at[0] = 1;
    pid_t child = DO(fork());
    if (!child) {
        at[4 * MEBIBYTE] = 2;
        _exit(at[0] == 1 && at[4 * MEBIBYTE] == 2 && at[6 * MEBIBYTE] == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(at[4 * MEBIBYTE] == 0);
}
