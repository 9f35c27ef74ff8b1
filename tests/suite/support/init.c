/* The init of a tiny root: says that it is up, and turns the machine off. */
#include <stdio.h>
#include <sys/reboot.h>

int main(void)
{
	puts("the tiny root is up");
	fflush(stdout);
	return reboot(RB_POWER_OFF);
}
