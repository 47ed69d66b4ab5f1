#include "sdk/tools/lab/lowrank/wproj_solve.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "sdk/tools/lab/lowrank/lowrank_error.h"
#include "sdk/tools/lab/lowrank/rank_allocation.h"
#include "sdk/tools/lab/lowrank/weight_pca.h"
#include "sdk/tools/lab/lowrank/whitened.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"

namespace keel::tools {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr uint32_t kQkv = 1u << kWprojQ | 1u << kWprojK | 1u << kWprojV;
constexpr WprojGroup kGroups[] = {kWprojAttnIn, kWprojAttnOut, kWprojFfnIn, kWprojFfnHidden};

void require(bool good, const char* what) {
    if (!good) throw std::invalid_argument(what);
}

WprojGroup group_of(uint32_t slots) {
    return wproj_group(static_cast<WprojSlot>(std::countr_zero(slots)));
}
template <class F>
void each_slot(uint32_t slots, const F& f) {
    for (; slots; slots &= slots - 1) f(static_cast<uint32_t>(std::countr_zero(slots)));
}
WeightView view_of(const WprojWeight& w) {
    return {w.data, static_cast<Index>(w.rows), static_cast<Index>(w.columns)};
}
std::span<const float> numbers(const FloatRows& m) {
    return {m.data(), static_cast<size_t>(m.size())};
}

// A configuration of a layer, and what it is solved to.
struct Plan {
    uint32_t slots = 0, rank = 0;
    WprojGroup group = kWprojAttnIn;
};

class LayerSolver {
  public:
    LayerSolver(const WprojLayerInput& input, const WprojSolveOptions& options) : input_(input), options_(options) {
        for (uint32_t s = 0; s < kWprojSlots; ++s) {
            const WprojWeight& w = input.weight[s];
            if (!w.data) continue;
            require(w.rows && w.columns && s != kWprojFfnDownSvd, "a weight without elements, or in slot 0");
            present_ |= 1u << s;
        }
    }

    // Configurations of a group as the layer has them, in their order, without repetitions and empty ones.
    std::vector<uint32_t> configurations(WprojGroup group) const {
        std::vector<uint32_t> found;
        for (const uint32_t slots : options_.configurations)
            if (const uint32_t here = slots & present_;
                here && group_of(here) == group && std::find(found.begin(), found.end(), here) == found.end())
                found.push_back(here);
        return found;
    }
    uint32_t configured(WprojGroup group) const {
        uint32_t slots = 0;
        for (const uint32_t c : configurations(group)) slots |= c;
        return slots;
    }
    uint32_t columns(uint32_t slots) const {
        const uint32_t n = input_.weight[static_cast<size_t>(std::countr_zero(slots))].columns;
        each_slot(slots, [&](uint32_t s) {
            require(input_.weight[s].columns == n, "weights of one group with different columns");
        });
        return n;
    }
    uint64_t dense_bytes(uint32_t slots) const {
        uint64_t sum = 0;
        each_slot(slots, [&](uint32_t s) { sum += input_.weight[s].dense_bytes; });
        return sum;
    }
    double sensitivity(uint32_t slots) const {
        double sum = 0;
        each_slot(slots, [&](uint32_t s) { sum += input_.weight[s].sensitivity; });
        return sum;
    }
    bool biased() const { return options_.solver == WprojSolver::kWhitened && options_.centred; }
    uint32_t basis_type(uint32_t n) const {
        return n % kernels::kWeightTypes[options_.basis_type].block_elements ? uint32_t{kernels::kF16}
                                                                             : options_.basis_type;
    }
    uint64_t record_bytes(uint32_t s, uint32_t rank) const {
        const uint64_t rows = input_.weight[s].rows;
        return rows * kernels::weight_row_bytes(options_.record_type, rank) + (biased() ? rows * 4 : 0);
    }
    uint64_t basis_bytes(uint32_t n, uint32_t rank) const { return rank * kernels::weight_row_bytes(basis_type(n), n); }
    // Basis, records and biases.
    uint64_t low_rank_bytes(uint32_t slots, uint32_t rank) const {
        uint64_t sum = basis_bytes(columns(slots), rank);
        each_slot(slots, [&](uint32_t s) { sum += record_bytes(s, rank); });
        return sum;
    }

    NestedFactors solve(uint32_t slots, uint32_t max_rank) const {
        std::vector<SolverSlot> weights;
        each_slot(slots, [&](uint32_t s) {
            const WprojWeight& w = input_.weight[s];
            weights.push_back({view_of(w), w.sensitivity});
            if (w.counted && options_.solver == WprojSolver::kWhitened)
                weights.back().counted.emplace(w.counted, static_cast<Index>(w.counted_rows),
                                               static_cast<Index>(w.columns));
        });
        if (options_.solver == WprojSolver::kWeightPca) return weight_pca(weights, max_rank);
        const MomentSummary& m = moments(group_of(slots), columns(slots));
        WhitenedOptions whitening;
        whitening.max_rank = max_rank;
        if (options_.keep_massive) {
            whitening.forced = m.massive;
            if (options_.centred) whitening.forced.rowwise() -= m.mean.transpose().cast<float>();
            whitening.forced.conservativeResize(std::min<Index>(whitening.forced.rows(), max_rank), Eigen::NoChange);
        }
        if (options_.centred) return whitened(weights, m.covariance, whitening);
        return whitened(weights, m.covariance + m.mean * m.mean.transpose(), whitening);
    }

    // Predicted output error of slot number i of `slots` at a rank, against E|W x|^2 where that is known.
    double predicted(const NestedFactors& factors, uint32_t slots, Index i, uint32_t rank) const {
        double share = 1;
        if (biased()) {
            uint32_t s = slots;
            for (Index skipped = 0; skipped < i; ++skipped) s &= s - 1;
            const WeightView w = view_of(input_.weight[static_cast<size_t>(std::countr_zero(s))]);
            const VectorXd& mean = moments(group_of(slots), columns(slots)).mean;
            double constant = 0;
            for (Index r = 0; r < w.rows(); ++r) constant += std::pow(w.row(r).cast<double>().dot(mean), 2);
            if (factors.energy[i] > 0) share = factors.energy[i] / (factors.energy[i] + constant);
        }
        return share * factors.error(i, rank);
    }

    // All dense, and every configuration and rank that saves bytes and keeps every slot within the bound by prediction.
    RankFamily family(WprojGroup group, uint32_t granularity) const {
        const uint32_t all = configured(group);
        RankFamily out;
        out.candidates.push_back({0, 0, dense_bytes(all), 0});
        for (const uint32_t slots : configurations(group)) {
            const uint32_t n = columns(slots);
            uint32_t most = 0;
            for (uint32_t rank = granularity; rank < n && low_rank_bytes(slots, rank) < dense_bytes(slots);
                 rank += granularity)
                most = rank;
            if (!most) continue;
            const NestedFactors factors = solve(slots, most);
            const Index count = std::popcount(slots);
            VectorXd share(count);  // prediction at rank 0, where the solver's error is 1 (0 for a weight of zeros)
            for (Index i = 0; i < count; ++i) share[i] = predicted(factors, slots, i, 0);
            for (uint32_t rank = granularity; rank <= most; rank += granularity) {
                double loss = 0, worst = 0;
                Index i = 0;
                each_slot(slots, [&](uint32_t s) {
                    const double error = share[i] * factors.error(i, rank);
                    loss += input_.weight[s].sensitivity * factors.error(i, rank);
                    worst = std::max(worst, error);
                    ++i;
                });
                if (worst <= options_.bound)
                    out.candidates.push_back(
                        {slots, rank, low_rank_bytes(slots, rank) + dense_bytes(all & ~slots), loss});
            }
        }
        return out;
    }

    void build(uint32_t layer, const std::vector<Plan>& plans, WprojImageLayer* out,
               std::vector<WprojSlotReport>* reports) const {
        for (const Plan& plan : plans) {
            for (uint32_t slots = plan.slots; slots;) {
                WprojImageLayer part;
                std::vector<WprojSlotReport> tried;
                const uint32_t kept =
                    store(layer, {slots, plan.rank, plan.group}, solve(slots, plan.rank), &part, &tried);
                if (kept == slots) {
                    out->basis[plan.group] = std::move(part.basis[plan.group]);
                    each_slot(kept, [&](uint32_t s) { out->record[s] = std::move(part.record[s]); });
                    reports->insert(reports->end(), tried.begin(), tried.end());
                    break;
                }
                // A refused slot has pulled the basis its way: the others are solved again without it, where they still
                // save bytes.
                const bool pays = options_.rule == WprojRankRule::kUniform ||
                                  (kept && low_rank_bytes(kept, plan.rank) < dense_bytes(kept));
                for (WprojSlotReport& report : tried) {
                    if (pays && kept >> report.slot & 1) continue;
                    report.accepted = false;
                    reports->push_back(report);
                }
                slots = pays ? kept : 0;
            }
        }
    }
    // One basis of Q, K and V for every slot of as many columns.
    void build_shared(uint32_t layer, uint32_t rank, WprojImageLayer* out,
                      std::vector<WprojSlotReport>* reports) const {
        const uint32_t base = present_ & kQkv;
        if (!base) return;
        const NestedFactors own = solve(base, rank);
        const uint32_t n = columns(base);
        for (const WprojGroup group : kGroups) {
            uint32_t slots = configured(group);
            if (group == kWprojFfnHidden || !slots || columns(slots) != n) continue;
            NestedFactors shared = own;
            shared.w_proj.clear();
            shared.error.resize(std::popcount(slots), rank + 1);
            each_slot(slots, [&](uint32_t s) {
                const WeightView w = view_of(input_.weight[s]);
                const Index i = static_cast<Index>(shared.w_proj.size());
                shared.w_proj.emplace_back((w.cast<double>() * own.pt.transpose().cast<double>()).cast<float>());
                const double whole = w.cast<double>().squaredNorm();
                shared.error.row(i).setConstant(
                    whole > 0 ? std::max(0.0, 1 - shared.w_proj.back().cast<double>().squaredNorm() / whole) : 0);
            });
            store(layer, {slots, rank, group}, shared, out, reports);
        }
    }

    uint32_t present() const { return present_; }

  private:
    const MomentSummary* known(WprojGroup group) const {
        const MomentSummary* m = input_.moments[group];
        return m && m->rows ? m : nullptr;
    }
    const MomentSummary& moments(WprojGroup group, uint32_t n) const {
        const MomentSummary* m = known(group);
        require(m && m->mean.size() == n, "the whitened solver needs the moments of every group it solves");
        return *m;
    }

    // Second moments of what Pt's columns multiply: elements of x. Empty: not known.
    std::vector<float> input_importance(WprojGroup group) const {
        const MomentSummary* m = known(group);
        if (!m) return {};
        VectorXd second = m->covariance.diagonal();
        if (!biased()) second += m->mean.cwiseAbs2();
        return std::vector<float>(second.data(), second.data() + second.size());
    }
    // And of W_proj's: elements of Pt x, Pt as stored.
    std::vector<float> projected_importance(WprojGroup group, const FloatRows& pt, const NestedFactors& nested) const {
        VectorXd second = nested.second_moment.head(pt.rows());
        if (const MomentSummary* m = known(group); m && options_.solver == WprojSolver::kWeightPca) {
            const MatrixXd wide = pt.cast<double>();
            second = (wide * m->covariance).cwiseProduct(wide).rowwise().sum() + (wide * m->mean).cwiseAbs2();
        }
        return std::vector<float>(second.data(), second.data() + second.size());
    }

    // Rounds the factors, measures them and keeps what is accepted: the slots returned.
    uint32_t store(uint32_t layer, const Plan& plan, const NestedFactors& nested, WprojImageLayer* out,
                   std::vector<WprojSlotReport>* reports) const {
        const uint32_t n = columns(plan.slots), rank = plan.rank;
        WprojImageBasis basis;
        basis.rank = rank;
        basis.columns = n;
        basis.type = basis_type(n);
        const LowRankFactors factors = nested.leading(rank);
        basis.matrix = quantize_rows(basis.type, numbers(factors.pt), n, input_importance(plan.group));
        const FloatRows pt = decoded(basis.type, basis.matrix, rank, n);
        if (biased()) {
            const VectorXd& mean = known(plan.group)->mean;
            const Eigen::VectorXf mu = (pt.cast<double>() * mean).cast<float>(), mean32 = mean.cast<float>();
            basis.mu.assign(mu.data(), mu.data() + mu.size());
            basis.mean.assign(mean32.data(), mean32.data() + mean32.size());
        } else if (options_.shared_basis) {
            basis.mu.assign(rank, 0.0f);
            basis.mean.assign(n, 0.0f);
        }
        const std::vector<float> importance = projected_importance(plan.group, pt, nested);
        uint32_t kept = 0;
        Index i = 0;
        each_slot(plan.slots, [&](uint32_t s) {
            const WeightView weight = view_of(input_.weight[s]);
            WprojImageRecord record;
            record.rows = input_.weight[s].rows;
            record.rank = rank;
            record.type = options_.record_type;
            record.matrix =
                quantize_rows(record.type, numbers(factors.w_proj[static_cast<size_t>(i)]), rank, importance);
            const FloatRows w_proj = decoded(record.type, record.matrix, record.rows, rank);
            Eigen::VectorXf bias;
            if (biased()) {
                bias = factor_bias(weight, pt, w_proj, known(plan.group)->mean);
                record.bias.assign(bias.data(), bias.data() + bias.size());
            }
            record.compression = wproj_compression(record.rows, rank, n);
            record.energy = static_cast<float>(projected_energy(weight, w_proj));

            WprojSlotReport report;
            report.layer = layer;
            report.slot = s;
            report.rank = rank;
            report.predicted = predicted(nested, plan.slots, i, rank);
            report.solver_error = nested.error(i, rank);
            report.forced = static_cast<uint32_t>(nested.forced);
            report.accepted = std::isinf(options_.bound);
            if (const MomentSummary* m = known(plan.group); m && m->held_out.rows()) {
                const OutputError error = output_error(weight, pt, w_proj, bias, m->held_out);
                report.measured = error.relative();
                record.error = static_cast<float>(report.measured);
                report.accepted = error.accepted(options_.bound);
            }
            if (report.accepted) {
                out->record[s] = std::move(record);
                kept |= 1u << s;
            }
            reports->push_back(report);
            ++i;
        });
        if (kept) out->basis[plan.group] = std::move(basis);
        return kept;
    }

    static FloatRows decoded(uint32_t type, const std::vector<uint8_t>& bytes, uint32_t rows, uint32_t columns) {
        const std::vector<float> values = decode_rows(type, bytes, columns);
        return Eigen::Map<const FloatRows>(values.data(), rows, columns);
    }

    const WprojLayerInput& input_;
    const WprojSolveOptions& options_;
    uint32_t present_ = 0;
};

void check_options(const WprojSolveOptions& o, uint32_t granularity) {
    require(can_quantize(o.basis_type) && can_quantize(o.record_type), "a weight type that is not written");
    require(o.bound >= 0, "a bound below 0");
    for (const uint32_t slots : o.configurations) {
        require(slots && slots < 1u << kWprojSlots && !(slots & 1u << kWprojFfnDownSvd),
                "a configuration of slots that are not there");
        each_slot(slots, [&](uint32_t s) {
            require(wproj_group(static_cast<WprojSlot>(s)) == group_of(slots), "a configuration over several groups");
        });
    }
    require(o.rule != WprojRankRule::kUniform || (o.rank && o.rank % granularity == 0),
            "a rank that is 0 or no whole number of blocks");
    require(!o.shared_basis || (o.solver == WprojSolver::kWeightPca && o.rule == WprojRankRule::kUniform),
            "a shared basis is for weight PCA of uniform rank");
}

}  // namespace

WprojSolution solve_wproj(uint32_t layers, const WprojLayerSource& source, const WprojSolveOptions& options) {
    require(options.granularity > 0, "a granularity of 0");
    require(can_quantize(options.record_type), "a weight type that is not written");
    const uint32_t granularity =
        std::lcm(options.granularity, uint32_t{kernels::kWeightTypes[options.record_type].block_elements});
    check_options(options, granularity);

    WprojSolution solution;
    solution.solver = options.solver == WprojSolver::kWhitened ? "whitened" : "weight-pca";
    std::vector<std::vector<Plan>> plans(layers);
    if (options.rule != WprojRankRule::kUniform) {
        std::vector<RankFamily> families;
        std::vector<std::pair<uint32_t, WprojGroup>> where;
        double sensitivity = 0;
        for (uint32_t l = 0; l < layers; ++l) {
            const WprojLayerInput input = source(l);
            const LayerSolver solver(input, options);
            for (const WprojGroup group : kGroups) {
                if (!solver.configured(group)) continue;
                families.push_back(solver.family(group, granularity));
                where.emplace_back(l, group);
                sensitivity += solver.sensitivity(solver.configured(group));
            }
        }
        const RankAllocation chosen = options.rule == WprojRankRule::kBytes
                                          ? allocate_bytes(families, options.budget_bytes)
                                          : allocate_loss(families, options.budget_loss * sensitivity);
        require(chosen.choice.size() == families.size(), "a budget that cannot be met");
        for (size_t f = 0; f < families.size(); ++f) {
            const RankCandidate& c = families[f].candidates[chosen.choice[f]];
            if (c.rank) plans[where[f].first].push_back({c.slots, c.rank, where[f].second});
        }
    }
    for (uint32_t l = 0; l < layers; ++l) {
        const WprojLayerInput input = source(l);
        const LayerSolver solver(input, options);
        if (options.rule == WprojRankRule::kUniform)
            for (const WprojGroup group : kGroups)
                if (const std::vector<uint32_t> configurations = solver.configurations(group); !configurations.empty())
                    plans[l].push_back({configurations[0], options.rank, group});
        solution.layers.emplace_back();
        const size_t first = solution.reports.size();
        WprojImageLayer& layer = solution.layers.back();
        if (options.shared_basis) {
            solver.build_shared(l, options.rank, &layer, &solution.reports);
        } else {
            solver.build(l, plans[l], &layer, &solution.reports);
        }
        std::sort(solution.reports.begin() + static_cast<std::ptrdiff_t>(first), solution.reports.end(),
                  [](const WprojSlotReport& a, const WprojSlotReport& b) { return a.slot < b.slot; });
        for (size_t i = first; i < solution.reports.size(); ++i)
            solution.predicted_loss +=
                input.weight[solution.reports[i].slot].sensitivity * solution.reports[i].solver_error;
        for (const WprojGroup group : kGroups) {
            const uint32_t slots = solver.configured(group);
            if (!slots) continue;
            solution.dense_bytes += solver.dense_bytes(slots);
            if (layer.basis[group].rank) solution.bytes += layer.basis[group].matrix.size();
            each_slot(slots, [&](uint32_t s) {
                solution.bytes += layer.record[s].rank ? layer.record[s].matrix.size() + 4 * layer.record[s].bias.size()
                                                       : input.weight[s].dense_bytes;
            });
        }
    }
    return solution;
}

}  // namespace keel::tools
