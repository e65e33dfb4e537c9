# Ends of the three tables.
.p2align 4
.globl visor_guest_image_end
visor_guest_image_end:
.pushsection .rodata.visor_guest_names, "a", @progbits
.globl visor_guest_names_end
visor_guest_names_end:
.popsection
.pushsection .rodata.visor_guest_programs, "a", @progbits
.globl visor_guest_programs_end
visor_guest_programs_end:
.popsection
