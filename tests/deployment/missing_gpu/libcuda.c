/* Stand-in for the CUDA driver on a machine without a GPU: the calls that enumerate GPUs.
   STANDIN_GPUS="9.0 8.6" lists compute capabilities; CUDA_VISIBLE_DEVICES selects among them, in its order, as in the driver. */
#include <stdio.h>
#include <stdlib.h>

static int major[8], minor[8], count;

static void show(int number) {
    const char *gpus = getenv("STANDIN_GPUS");
    int used, index = 0;
    for (int a, b; gpus && sscanf(gpus, "%d.%d%n", &a, &b, &used) == 2; gpus += used, index++) {
        if (index != number) continue;
        major[count] = a;
        minor[count++] = b;
    }
}
int cuInit(unsigned flags) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    int before = -1;
    (void)flags;
    count = 0;
    if (!visible) {
        for (int number = 0; number < 8; number++) show(number);
    } else {
        for (char *end; *visible && before != count; visible = *end ? end + 1 : end) {
            int number = (int)strtol(visible, &end, 10);
            before = count;
            if (end != visible) show(number); /* what it cannot read ends the list */
        }
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
