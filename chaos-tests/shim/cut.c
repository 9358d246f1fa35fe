/* Ends a file system as a power cut does: what is neither synced nor written back is gone at the next mount (FS_IOC_SHUTDOWN without a
 * flush of its log, as xfstests' `godown` does). Argument: a directory on it. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define SHUTDOWN _IOR('X', 125, uint32_t)
#define WITHOUT_FLUSHING_THE_LOG 2

int main(int count, char **arguments)
{
	uint32_t how = WITHOUT_FLUSHING_THE_LOG;
	int fd = count == 2 ? open(arguments[1], O_RDONLY | O_DIRECTORY) : -1;
	if (fd < 0 || ioctl(fd, SHUTDOWN, &how) != 0) {
		perror("cut");
		return 1;
	}
	return 0;
}
