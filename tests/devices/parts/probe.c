/* A guest of a few KiB, started by the multiboot protocol: Linux takes minutes in a guest of a machine in software.
 *
 * It says on its serial port which PCI functions it sees, then "probe ready", and then does what it is told there:
 *   f NUMBER   the factorial of NUMBER, computed by each "edu" device that it has (QEMU, docs/specs/edu.txt)
 *   w NUMBER   fill each one's buffer with that byte, by DMA
 *   r          read each one's buffer back, by DMA
 */
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

__attribute__((section(".multiboot"), used)) const u32 multiboot[3] = {0x1BADB002, 0, -(0x1BADB002)};

#define EDU 0x11e81234u
#define BUFFER 0x40000u
#define MOST 8

static volatile u32 *edu[MOST];
static int edus;
static u8 memory[4096] __attribute__((aligned(4096)));

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0,%1" ::"a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0,%1" ::"a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) {
    u8 value;
    __asm__ volatile("inb %1,%0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline u32 inl(u16 port) {
    u32 value;
    __asm__ volatile("inl %1,%0" : "=a"(value) : "Nd"(port));
    return value;
}

static void character(char c) {
    for (int turns = 100000; !(inb(0x3fd) & 0x20) && turns--;) {}
    outb(0x3f8, c);
}
static void text(const char *s) {
    for (; *s; s++) {
        if (*s == '\n') character('\r');
        character(*s);
    }
}
static void hex(u32 value, int digits) {
    while (digits--) character("0123456789abcdef"[(value >> (4 * digits)) & 15]);
}
static void decimal(u32 value) {
    char digits[11];
    int n = 0;
    do digits[n++] = '0' + value % 10; while (value /= 10);
    while (n--) character(digits[n]);
}

static u32 config(int bus, int device, int function, int at) {
    outl(0xcf8, 0x80000000u | bus << 16 | device << 11 | function << 8 | at);
    return inl(0xcfc);
}
static void set_config(int bus, int device, int function, int at, u32 value) {
    outl(0xcf8, 0x80000000u | bus << 16 | device << 11 | function << 8 | at);
    outl(0xcfc, value);
}

static void look(void) {
    for (int bus = 0; bus < 256; bus++)
        for (int device = 0; device < 32; device++)
            for (int function = 0; function < 8; function++) {
                u32 ids = config(bus, device, function, 0);
                if ((ids & 0xffff) == 0xffff || ids == 0) {
                    if (function == 0) break;
                    continue;
                }
                u32 bar = config(bus, device, function, 0x10);
                text("pci "), hex(bus, 2), character(':'), hex(device, 2), character('.'), hex(function, 1);
                text(" "), hex(ids & 0xffff, 4), character(':'), hex(ids >> 16, 4);
                text(" class "), hex(config(bus, device, function, 8) >> 8, 6), text("\n");
                if (ids == EDU && edus < MOST) {
                    set_config(bus, device, function, 4, config(bus, device, function, 4) | 6); /* memory, DMA */
                    edu[edus++] = (volatile u32 *)(bar & ~15u);
                }
                if (function == 0 && !((config(bus, device, function, 0xc) >> 16) & 0x80)) break;
            }
}

static u32 factorial(volatile u32 *registers, u32 of) {
    registers[2] = of;
    for (u32 turns = 0; (registers[8] & 1) && turns < 100000000; turns++) {}
    return registers[2];
}

/* command 1: from memory to the device; 3: from the device to memory. */
static void dma(volatile u32 *registers, u32 command) {
    u32 source = command == 1 ? (u32)memory : BUFFER, target = command == 1 ? BUFFER : (u32)memory;
    registers[0x80 / 4] = source, registers[0x84 / 4] = 0;
    registers[0x88 / 4] = target, registers[0x8c / 4] = 0;
    registers[0x90 / 4] = 64, registers[0x94 / 4] = 0;
    registers[0x98 / 4] = command;
    for (u32 turns = 0; (registers[0x98 / 4] & 1) && turns < 100000000; turns++) {}
}

static void obey(char what, u32 number) {
    for (int i = 0; i < edus; i++) {
        text("edu "), decimal(i);
        if (what == 'f') text(" factorial "), decimal(number), text(" is "), decimal(factorial(edu[i], number));
        if (what == 'w') {
            for (int at = 0; at < 64; at++) memory[at] = number;
            dma(edu[i], 1);
            text(" filled with "), decimal(number);
        }
        if (what == 'r') {
            for (int at = 0; at < 64; at++) memory[at] = 0x55;
            dma(edu[i], 3);
            text(" holds "), hex(memory[0], 2), hex(memory[31], 2), hex(memory[63], 2);
        }
        text("\n");
    }
    text("done "), character(what), text("\n");
}

void run(void) {
    text("probe begins\n");
    look();
    text("probe ready\n");
    char what = 0;
    u32 number = 0;
    for (;;) {
        if (!(inb(0x3fd) & 1)) continue;
        u8 c = inb(0x3f8);
        if (c == '\n' || c == '\r') {
            if (what) obey(what, number);
            what = 0, number = 0;
        } else if (c >= '0' && c <= '9') number = number * 10 + (c - '0');
        else if (c > ' ') what = c;
    }
}

__asm__(".section .text.start\n.globl _start\n_start:\n cli\n mov $stack_top,%esp\n call run\n"
        ".bss\n.align 16\n.space 8192\nstack_top:\n.text\n");
