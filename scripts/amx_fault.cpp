// Does this compiler carry a tile configuration to the CPU? Exit status 0: yes; 1: no; 2: it
// cannot be told here. Death by a signal is a no as well: a damaged configuration is refused by
// the CPU with a general protection fault.
//
// The _tile_loadconfig of some GCC releases is inline assembly that owns up to reading only the
// first 8 of the 64 bytes. Optimised, the stores to the other fields of a local struct are dead, and
// what lay on the stack is loaded instead. llama.cpp configures its tiles exactly like this.

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {

struct tile_config {
    uint8_t palette_id = 0;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {0};
    uint16_t colsb[16] = {0};
    uint8_t rows[16] = {0};
};

// The stack must not hold a configuration that happens to be right.
__attribute__((noinline)) void soil_the_stack() {
    volatile unsigned char bytes[4096];
    for (unsigned i = 0; i < sizeof(bytes); ++i) {
        bytes[i] = 0xa5;
    }
}

__attribute__((noinline)) void configure() {
    alignas(64) tile_config config = {};
    config.palette_id = 1;
    config.rows[0] = 8;   config.colsb[0] = 64;
    config.rows[1] = 8;   config.colsb[1] = 64;
    config.rows[2] = 16;  config.colsb[2] = 32;
    config.rows[3] = 16;  config.colsb[3] = 32;
    config.rows[4] = 16;  config.colsb[4] = 64;
    config.rows[5] = 16;  config.colsb[5] = 64;
    config.rows[6] = 16;  config.colsb[6] = 64;
    config.rows[7] = 16;  config.colsb[7] = 64;
    _tile_loadconfig(&config);
}

}  // namespace

int main() {
    const long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    const long tile_data = 18;
    if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0) {
        return 2;
    }
    soil_the_stack();
    configure();

    // Read back with assembly that names all 64 bytes: _tile_storeconfig has the fault too.
    alignas(64) unsigned char loaded[64];
    __asm__ volatile("sttilecfg %0" : "=m"(loaded));
    const unsigned char columns[8] = {64, 64, 32, 32, 64, 64, 64, 64};
    const unsigned char rows[8] = {8, 8, 16, 16, 16, 16, 16, 16};
    unsigned char expected[64] = {1};
    for (int i = 0; i < 8; ++i) {
        expected[16 + 2 * i] = columns[i];
        expected[48 + i] = rows[i];
    }
    return std::memcmp(loaded, expected, sizeof(expected)) == 0 ? 0 : 1;
}

#else

// Left to itself this compiler leaves AMX out of the library.
int main() { return 0; }

#endif
