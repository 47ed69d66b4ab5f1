// The largest eigenvalues of a symmetric positive semidefinite matrix with their vectors. Needs Eigen.
#pragma once
#include <stdint.h>

#include <Eigen/Core>

namespace keel::tools {

enum class EigenMethod {
    kAutomatic,  // dense up to 512 columns or where about a quarter of the spectrum is asked for, when it is the faster
                 // one; else randomized
    kDense,      // Householder tridiagonalisation and implicit QR, all eigenvalues
    kRandomized,  // block subspace iteration on a Gaussian start of k + 32 columns
};

struct Eigenpairs {
    Eigen::VectorXd values;  // [k], descending
    Eigen::MatrixXd
        vectors;          // [n][k], orthonormal columns; of each, the largest |entry| (the first of equals) is positive
    EigenMethod method;   // the one used
    uint32_t passes = 0;  // multiplications by the matrix, of the randomized method
    // The last pass raised the sum of the k Ritz values by less than 1e-12 of it; false after 8 passes, when the
    // vectors span nearly as much of the trace as the best ones but need not be close to them. True for the dense
    // method.
    bool converged = true;
    double residual = 0;  // largest |A v - value v| over the pairs, relative to the largest value
};

// Both triangles of `matrix` [n][n] are given. k at most n. The randomized method multiplies 2 to 8 times,
// orthonormalises (Householder QR) after every multiplication and ends with Rayleigh and Ritz; its start comes of a
// fixed seed, so equal matrices give equal bytes. std::invalid_argument: not square, k > n, an entry that is not
// finite.
Eigenpairs top_eigenpairs(const Eigen::MatrixXd& matrix, Eigen::Index k, EigenMethod method = EigenMethod::kAutomatic);

}  // namespace keel::tools
