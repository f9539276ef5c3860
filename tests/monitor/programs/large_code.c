// Code of 3 MiB, as a program that shows where its own and that of the libraries in its arguments begin, or as such a library.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

__asm__(".text\n.globl large_code\nlarge_code:\nret\n.fill 0x300000, 1, 0x90\n");
extern void large_code(void);

#ifndef LIBRARY
int main(int argc, char **argv) {
    for (int argument = 1; argument < argc; argument++) {
        void *library = dlopen(argv[argument], RTLD_NOW);
        void (*code)(void) = library ? (void (*)(void))dlsym(library, "large_code") : 0;
        if (!code) return printf("%s\n", dlerror()), 1;
        code();
    }
    large_code();
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char execute;
        if (sscanf(line, "%lx-%lx %*c%*c%c", &start, &end, &execute) == 3 && execute == 'x' && end - start >= 3 << 20) printf("%lx\n", start);
    }
    return 0;
}
#endif
