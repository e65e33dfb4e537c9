//! A program for the compilers in the guest: many functions of arithmetic on structures, arrays and floating-point numbers, with
//! printf, so that headers, code generator, assembler and linker all have something to do. The same text every time.

use std::fmt::Write as _;

const FUNCTIONS: u32 = 250;

/// The program.
pub(super) fn source() -> String {
    let mut text = String::from(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n#include <errno.h>\n#include <signal.h>\n\
         struct item { unsigned key; double weight; char name[24]; struct item *next; };\n",
    );
    for i in 0..FUNCTIONS {
        let (a, b, c) = (i * 7 + 3, i * 13 + 1, i % 31 + 1);
        let _ = write!(
            text,
            "static unsigned step{i}(struct item *it, unsigned x)\n{{\n  unsigned table[8] = {{ {a}, {b}, {c}, x, x * {a}, x ^ {b}, x >> {}, {i} }};\n  \
             for (int k = 0; k < 8; k++) {{ x = x * {a}u + table[(x + k) & 7]; if (x & 1) x ^= {b}u << {}; else x -= {c}u; }}\n  \
             it->key += x; it->weight = it->weight * 0.5 + (double)(x % 1000) / {c}.0;\n  \
             switch (x % 5) {{ case 0: return x + it->key; case 1: return x * 3; case 2: return x ^ 0x{:x}u; default: return x; }}\n}}\n",
            c % 17,
            c % 13,
            a * b
        );
    }
    text.push_str("static unsigned (*const steps[])(struct item *, unsigned) = {");
    for i in 0..FUNCTIONS {
        let _ = write!(text, " step{i},");
    }
    text.push_str(
        " };\nint main(void)\n{\n  struct item it = { 1, 1.0, \"work\", 0 };\n  unsigned x = 1;\n  for (int r = 0; r < 40; r++)\n    \
         for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) x = steps[i](&it, x);\n  \
         printf(\"%s %u %u %.6f\\n\", it.name, x, it.key, it.weight);\n  return 0;\n}\n",
    );
    text
}
