# The guest's vDSO: a shared object of one page that answers for the clocks without leaving the machine (vdso(7)).
#
# It is written as an ELF file here, byte for byte, so that the assembler resolves what lies where. Its code reads the
# page of `clock::page` at a fixed address below the program's memory. What it cannot answer, it asks by the system call.

    .pushsection .rodata.mayfly_vdso, "a", @progbits
    .balign 16
    .globl mayfly_vdso, mayfly_vdso_end
mayfly_vdso:
.Lv_elf:
    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
    .short 3, 62                        # shared object, x86-64
    .long 1
    .quad 0
    .quad .Lv_headers - .Lv_elf
    .quad 0
    .long 0
    .short 64, 56, 3, 64, 0, 0

.Lv_headers:
    .long 1, 5                          # PT_LOAD, readable and executable
    .quad 0, 0, 0, .Lv_end - .Lv_elf, .Lv_end - .Lv_elf, 4096
    .long 2, 4                          # PT_DYNAMIC
    .quad .Lv_dynamic - .Lv_elf, .Lv_dynamic - .Lv_elf, .Lv_dynamic - .Lv_elf
    .quad .Lv_dynamic_end - .Lv_dynamic, .Lv_dynamic_end - .Lv_dynamic, 8
    .long 0x6474e550, 4                 # PT_GNU_EH_FRAME
    .quad .Lv_frames - .Lv_elf, .Lv_frames - .Lv_elf, .Lv_frames - .Lv_elf
    .quad .Lv_unwind - .Lv_frames, .Lv_unwind - .Lv_frames, 4

.Lv_dynamic:
    .quad 14, .Lv_soname - .Lv_strings
    .quad 4, .Lv_hash - .Lv_elf
    .quad 5, .Lv_strings - .Lv_elf
    .quad 6, .Lv_symbols - .Lv_elf
    .quad 10, .Lv_strings_end - .Lv_strings
    .quad 11, 24
    .quad 0x6ffffffc, .Lv_definitions - .Lv_elf
    .quad 0x6ffffffd, 2
    .quad 0x6ffffff0, .Lv_versions - .Lv_elf
    .quad 0, 0
.Lv_dynamic_end:

.Lv_symbols:
    .quad 0, 0, 0
    .macro VDSO_SYMBOL name
    .long .Lv_s_\name - .Lv_strings
    .byte 0x12, 0                       # a global function
    .short 1                            # defined
    .quad .Lv_f_\name - .Lv_elf, .Lv_e_\name - .Lv_f_\name
    .endm
    VDSO_SYMBOL clock_gettime
    VDSO_SYMBOL gettimeofday
    VDSO_SYMBOL time
    VDSO_SYMBOL clock_getres
    VDSO_SYMBOL getcpu

.Lv_hash:                               # one bucket, one chain
    .long 1, 6, 1, 0, 2, 3, 4, 5, 0

.Lv_definitions:                        # the name of the object, and the version of its symbols
    .short 1, 1, 1, 1
    .long 233750433, 20, 28, .Lv_soname - .Lv_strings, 0
    .short 1, 0, 2, 1
    .long 61765110, 20, 0, .Lv_version - .Lv_strings, 0
.Lv_versions:
    .short 0, 2, 2, 2, 2, 2

.Lv_strings:
    .byte 0
.Lv_soname:
    .asciz "linux-vdso.so.1"
.Lv_version:
    .asciz "LINUX_2.6"
.Lv_s_clock_gettime:
    .asciz "__vdso_clock_gettime"
.Lv_s_gettimeofday:
    .asciz "__vdso_gettimeofday"
.Lv_s_time:
    .asciz "__vdso_time"
.Lv_s_clock_getres:
    .asciz "__vdso_clock_getres"
.Lv_s_getcpu:
    .asciz "__vdso_getcpu"
.Lv_strings_end:

# How to unwind: nowhere does the code move the stack pointer, so one rule holds for all of it.
    .balign 4
.Lv_frames:
    .byte 1, 0x1b, 0x03, 0x3b
    .long .Lv_rules - .
    .long 1
    .long .Lv_text - .Lv_frames, .Lv_rule - .Lv_frames
    .balign 8
.Lv_rules:
    .long .Lv_rule - .Lv_rules - 4
    .long 0
    .byte 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1b
    .byte 0x0c, 7, 8, 0x90, 1           # the caller's frame is at rsp + 8, its address just below
    .balign 4
.Lv_rule:
    .long .Lv_rule_end - .Lv_rule - 4
    .long .Lv_rule + 4 - .Lv_rules
    .long .Lv_text - .
    .long .Lv_end - .Lv_text
    .byte 0
    .balign 4
.Lv_rule_end:
    .long 0
.Lv_unwind:

    .balign 16
.Lv_text:

# In: r8, the address of what is added to the monotonic time. Out: rax seconds, rdx nanoseconds; carry: ask the monitor.
# Changes rcx, r9, r10 besides.
.Lv_read:
    mov r10d, 256
1:  mov r9d, dword ptr [{PAGE} + {SEQUENCE}]
    test r9d, 1
    jnz 2f
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, qword ptr [{PAGE} + {START}]
    cmp rax, qword ptr [{PAGE} + {HORIZON}]
    jae 3f
    mul qword ptr [{PAGE} + {RATE}]
    shrd rax, rdx, 32
    add rax, qword ptr [{PAGE} + {MONOTONIC}]
    add rax, qword ptr [r8]
    cmp r9d, dword ptr [{PAGE} + {SEQUENCE}]
    jne 2f
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    clc
    ret
2:  pause
    dec r10d
    jnz 1b
3:  stc
    ret

    .balign 16
.Lv_f_clock_gettime:
    cmp edi, 7
    ja 9f
    mov eax, {ANSWERED}
    bt eax, edi
    jnc 9f
    mov r8d, edi
    lea r8, [r8 * 8 + {PAGE} + {OFFSETS}]
    call .Lv_read
    jc 9f
    mov qword ptr [rsi], rax
    mov qword ptr [rsi + 8], rdx
    xor eax, eax
    ret
9:  mov eax, 228
    syscall
    ret
.Lv_e_clock_gettime:

    .balign 16
.Lv_f_gettimeofday:
    test rdi, rdi
    jz 2f
    mov r8d, {PAGE} + {OFFSETS}
    call .Lv_read
    jc 9f
    mov qword ptr [rdi], rax
    mov eax, edx
    xor edx, edx
    mov ecx, 1000
    div ecx
    mov qword ptr [rdi + 8], rax
2:  test rsi, rsi
    jz 3f
    mov qword ptr [rsi], 0
3:  xor eax, eax
    ret
9:  mov eax, 96
    syscall
    ret
.Lv_e_gettimeofday:

    .balign 16
.Lv_f_time:
    mov r8d, {PAGE} + {OFFSETS}
    call .Lv_read
    jc 9f
    test rdi, rdi
    jz 2f
    mov qword ptr [rdi], rax
2:  ret
9:  mov eax, 201
    syscall
    ret
.Lv_e_time:

    .balign 16
.Lv_f_clock_getres:
    cmp edi, 7
    ja 9f
    mov eax, {PRECISE}
    bt eax, edi
    jnc 9f
    mov rax, qword ptr [{PAGE} + {RESOLUTION}]
    test rax, rax
    jz 9f
    test rsi, rsi
    jz 2f
    mov qword ptr [rsi], 0
    mov qword ptr [rsi + 8], rax
2:  xor eax, eax
    ret
9:  mov eax, 229
    syscall
    ret
.Lv_e_clock_getres:

# A thread's processor may change at any time without the machine's noticing: the monitor knows it as well as anybody.
    .balign 16
.Lv_f_getcpu:
    mov eax, 309
    syscall
    ret
.Lv_e_getcpu:

.Lv_end:
mayfly_vdso_end:
    .popsection
