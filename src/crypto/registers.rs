//! Clears the vector registers: copying and comparing leave up to 64 bytes of what they touched in each, a thread that then sleeps
//! keeps them, and a core dump shows them.
#![allow(unsafe_code, reason = "no safe instruction clears a register")]

/// Overwrites all vector registers of this thread.
pub(super) fn clear() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    x86_64::clear();
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    aarch64::clear();
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64 {
    use std::arch::{asm, is_x86_feature_detected};

    pub(super) fn clear() {
        if is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has the instructions.
            unsafe { upper_half() };
        }
        if is_x86_feature_detected!("avx") {
            // SAFETY: the processor has the instruction.
            unsafe { avx() };
        } else {
            sse();
        }
    }

    /// Registers 16 to 31. Zeros in the lowest 128 bits of one are zeros in all 512.
    ///
    /// # Safety
    /// The processor has AVX-512VL.
    #[target_feature(enable = "avx512vl")]
    unsafe fn upper_half() {
        // SAFETY: touches no memory and no register that is not named as overwritten.
        unsafe {
            asm!(
                "vpxord xmm16, xmm16, xmm16", "vpxord xmm17, xmm17, xmm17", "vpxord xmm18, xmm18, xmm18",
                "vpxord xmm19, xmm19, xmm19", "vpxord xmm20, xmm20, xmm20", "vpxord xmm21, xmm21, xmm21",
                "vpxord xmm22, xmm22, xmm22", "vpxord xmm23, xmm23, xmm23", "vpxord xmm24, xmm24, xmm24",
                "vpxord xmm25, xmm25, xmm25", "vpxord xmm26, xmm26, xmm26", "vpxord xmm27, xmm27, xmm27",
                "vpxord xmm28, xmm28, xmm28", "vpxord xmm29, xmm29, xmm29", "vpxord xmm30, xmm30, xmm30",
                "vpxord xmm31, xmm31, xmm31",
                out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _, out("xmm20") _, out("xmm21") _,
                out("xmm22") _, out("xmm23") _, out("xmm24") _, out("xmm25") _, out("xmm26") _, out("xmm27") _,
                out("xmm28") _, out("xmm29") _, out("xmm30") _, out("xmm31") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }

    /// # Safety
    /// The processor has AVX.
    #[target_feature(enable = "avx")]
    unsafe fn avx() {
        // SAFETY: touches no memory and no register that is not named as overwritten.
        unsafe {
            asm!(
                "vzeroall",
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }

    fn sse() {
        // SAFETY: every x86-64 processor has the instructions; touches no memory and no register that is not named as overwritten.
        unsafe {
            asm!(
                "xorps xmm0, xmm0", "xorps xmm1, xmm1", "xorps xmm2, xmm2", "xorps xmm3, xmm3",
                "xorps xmm4, xmm4", "xorps xmm5, xmm5", "xorps xmm6, xmm6", "xorps xmm7, xmm7",
                "xorps xmm8, xmm8", "xorps xmm9, xmm9", "xorps xmm10, xmm10", "xorps xmm11, xmm11",
                "xorps xmm12, xmm12", "xorps xmm13, xmm13", "xorps xmm14, xmm14", "xorps xmm15, xmm15",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod aarch64 {
    use std::arch::asm;

    pub(super) fn clear() {
        // SAFETY: every aarch64 processor that Rust's targets with an operating system mean has the instructions; touches no memory
        // and no register that is not named as overwritten.
        unsafe {
            asm!(
                "movi v0.2d, #0", "movi v1.2d, #0", "movi v2.2d, #0", "movi v3.2d, #0",
                "movi v4.2d, #0", "movi v5.2d, #0", "movi v6.2d, #0", "movi v7.2d, #0",
                "movi v8.2d, #0", "movi v9.2d, #0", "movi v10.2d, #0", "movi v11.2d, #0",
                "movi v12.2d, #0", "movi v13.2d, #0", "movi v14.2d, #0", "movi v15.2d, #0",
                "movi v16.2d, #0", "movi v17.2d, #0", "movi v18.2d, #0", "movi v19.2d, #0",
                "movi v20.2d, #0", "movi v21.2d, #0", "movi v22.2d, #0", "movi v23.2d, #0",
                "movi v24.2d, #0", "movi v25.2d, #0", "movi v26.2d, #0", "movi v27.2d, #0",
                "movi v28.2d, #0", "movi v29.2d, #0", "movi v30.2d, #0", "movi v31.2d, #0",
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
                out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
                out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _,
                out("v29") _, out("v30") _, out("v31") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::asm;

    #[test]
    fn what_was_in_a_register_is_gone() {
        let (mut before, mut after) = ([0u8; 16], [0u8; 16]);
        let needle = *b"left in register";
        for clear in [false, true] {
            let seen = if clear { &mut after } else { &mut before };
            // SAFETY: reads and writes 16 bytes each; the call in between may overwrite any register of the calling convention.
            unsafe {
                asm!("movups xmm9, [{}]", in(reg) needle.as_ptr(), out("xmm9") _, options(nostack));
                if clear {
                    super::clear();
                }
                asm!("movups [{}], xmm9", in(reg) seen.as_mut_ptr(), options(nostack));
            }
        }
        assert_eq!(before, needle, "the control");
        assert_eq!(after, [0; 16]);
    }
}
