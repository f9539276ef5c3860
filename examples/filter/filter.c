/* Filter: the `stdin` contract. The body of the request arrives on standard input, what is printed is the answer, and an exit status other
 * than 0 is a failure (500), with standard error in the log. The program itself knows nothing of HTTP.
 *
 * It turns letters into capitals, as `tr a-z A-Z` does, byte by byte. */
#include <ctype.h>
#include <stdio.h>

int main(void)
{
    char block[16384];
    size_t count;

    while ((count = fread(block, 1, sizeof block, stdin)) > 0) {
        for (size_t i = 0; i < count; i++)
            block[i] = (char)toupper((unsigned char)block[i]);
        if (fwrite(block, 1, count, stdout) != count)
            break;
    }
    if (ferror(stdin) || ferror(stdout) || fflush(stdout) != 0) {
        perror("filter");
        return 1;
    }
    return 0;
}
