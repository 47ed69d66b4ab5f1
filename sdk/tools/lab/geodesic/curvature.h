// The connection and curvature of a metric.
#pragma once
#include "sdk/tools/lab/geodesic/metric.h"

namespace keel::geodesic {

// Christoffel symbols of a point, rows first.
struct Christoffel {
    std::vector<double> gamma;    // [k][i][j]: Gamma^k_ij
    std::vector<double> gamma_1;  // [m][k][i][j]: d Gamma^k_ij / d x_m
};

// What geodesics need to know of a metric.
class Connection {
  public:
    virtual ~Connection() = default;
    virtual size_t dim() const = 0;
    // Fills gamma, from order 1 on gamma_1.
    virtual void at(const double* x, int order, Christoffel& out) const = 0;
};

// Gamma^k_ij = 1/2 g^kl (d_i g_jl + d_j g_il - d_l g_ij), and its derivatives, as exact as the metric's.
class LeviCivita : public Connection {
  public:
    explicit LeviCivita(const Metric& metric) : metric_(metric) {}  // which must outlive it
    size_t dim() const override { return metric_.dim(); }
    void at(const double* x, int order, Christoffel& out) const override;

  private:
    const Metric& metric_;
};

// R^a_bcd = d_c Gamma^a_bd - d_d Gamma^a_bc + Gamma^a_ce Gamma^e_bd - Gamma^a_de Gamma^e_bc, as [a][b][c][d].
std::vector<double> riemann(const Connection& connection, const double* x);

}  // namespace keel::geodesic
