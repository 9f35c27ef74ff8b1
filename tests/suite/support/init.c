/* The init of a tiny root: says how large root is, and when it is up, and turns the machine off. */
#include <stdio.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	FILE *file = fopen("/sys/class/block/dm-0/size", "r");
	unsigned long sectors = 0;
	struct timespec now = { 0, 0 };

	clock_gettime(CLOCK_BOOTTIME, &now);
	printf("the kernel started %ld.%02ld s ago\n", (long)now.tv_sec, now.tv_nsec / 10000000);

	if (file && fscanf(file, "%lu", &sectors) == 1)
		printf("root has %lu sectors\n", sectors);
	puts("the tiny root is up");
	fflush(stdout);
	/* What the console hasn't sent yet would go with the power. */
	tcdrain(STDOUT_FILENO);
	return reboot(RB_POWER_OFF);
}
