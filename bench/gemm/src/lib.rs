//! One matrix product for every program that the matmul benchmark compares: a difference between two
//! of them is then a difference in how the matrices travel.

/// `c = a * b` in row-major order: `a` is `rows` x `inner`, `b` is `inner` x `columns`.
///
/// # Safety
/// `a` and `b` must be readable and `c` writable for as many elements; nobody else writes them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bench_gemm(
    rows: usize,
    inner: usize,
    columns: usize,
    a: *const f64,
    b: *const f64,
    c: *mut f64,
) {
    let (inner_stride, stride) = (inner as isize, columns as isize);
    // SAFETY: the caller vouches for the three matrices; the strides are those of row-major order.
    unsafe {
        matrixmultiply::dgemm(rows, inner, columns, 1.0, a, inner_stride, 1, b, stride, 1, 0.0, c, stride, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::bench_gemm;

    #[test]
    fn a_small_product_is_right() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
        let mut c = [0.0; 4];
        // SAFETY: 2 x 3, 3 x 2 and 2 x 2 elements.
        unsafe { bench_gemm(2, 3, 2, a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
        assert_eq!(c, [58.0, 64.0, 139.0, 154.0]);
    }
}
