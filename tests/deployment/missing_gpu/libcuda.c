/* Stand-in for the CUDA driver on a machine without a GPU: the calls that enumerate GPUs.
   STANDIN_GPUS="9.0 8.6" lists compute capabilities; CUDA_VISIBLE_DEVICES selects among them, as in the driver. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int major[8], minor[8], count;

int cuInit(unsigned flags) {
    const char *gpus = getenv("STANDIN_GPUS"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    int used, index = 0;
    (void)flags;
    count = 0;
    for (int a, b; gpus && sscanf(gpus, "%d.%d%n", &a, &b, &used) == 2; gpus += used, index++) {
        char name[12];
        snprintf(name, sizeof name, "%d", index);
        if (visible && !strstr(visible, name)) continue;
        major[count] = a;
        minor[count++] = b;
    }
    return count ? 0 : 100; /* CUDA_ERROR_NO_DEVICE */
}
int cuDeviceGetCount(int *found) { *found = count; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < count ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int device) { (void)device; snprintf(name, length, "stand-in"); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? major[device] : minor[device];
    return 0;
}
int cuGetErrorString(int error, const char **text) { *text = error == 100 ? "no device" : "error"; return 0; }
