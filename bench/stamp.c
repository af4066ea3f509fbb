/*
 * A job that says when it began: prints the monotonic clock in nanoseconds. Its first line is the
 * first thing that a job can do.
 */
#include <stdio.h>
#include <time.h>

int main(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
    return 0;
}
