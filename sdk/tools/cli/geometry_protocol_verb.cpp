// keel geometry protocol: the published experiments on activation clouds, run again beside what they should be.
#include <math.h>
#include <stdio.h>

#include <chrono>
#include <filesystem>

#include "sdk/tools/cli/geometry_verbs.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/lab/geodesic/geodesic.h"
#include "sdk/tools/lab/geodesic/published_protocol.h"
#include "sdk/tools/lab/geodesic/random.h"
#include "sdk/tools/lab/geodesic/velocity_surrogate.h"

namespace keel::tools {
namespace {

using namespace geodesic;

constexpr size_t kDim = 8, kNeighbours = 8;
constexpr uint64_t kSeed = 20260427;
constexpr double kPublishedSigma = 0.6;

struct Row {
    std::string what, published, measured, beside;
};

double seconds_of(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<Row> coverage_rows(const MetricField& field) {
    std::vector<Row> rows;
    const char* const published[] = {"0.555 to 0.587", "0.904 to 0.915", "0.982 to 0.998", "1.000"};
    const size_t cached[] = {6, 16, 32, 48};
    for (size_t i = 0; i < 4; ++i) {
        const Coverage c = coverage(field, cached[i], {2, 3}, 64, kSeed);
        rows.push_back({strf("coverage within 3 with %zu of 64 cached", cached[i]), published[i],
                        strf("%.3f (within 2: %.3f)", c.hits[1], c.hits[0]),
                        strf("chance %.3f", chance_of_neighbour(field.count(), kNeighbours, cached[i]))});
    }
    return rows;
}

// A field that bends: metrics of 4 dim neighbours, joined over the distance between points.
MetricField bending_field(const PublishedCloud& cloud, size_t dim) {
    const std::vector<double> points = lifted(cloud, dim, kSeed);
    return MetricField(dim, points, neighbour_metrics(dim, points, 4 * dim), median_nearest_distance(dim, points));
}

std::vector<Row> validity_rows(const PublishedCloud& cloud) {
    const std::vector<double> distances = {0.4, 1, 3, 5};
    const MetricField flat = published_field(6, lifted(cloud, 6, kSeed), kNeighbours, kPublishedSigma);
    const auto published = published_validity(flat, distances, 6, kSeed);
    const auto bending = published_validity(bending_field(cloud, 6), distances, 6, kSeed);
    const char* const claims[] = {"3.5e-8", "4.4e-8", "1.0e-4", "2.0e-4"};
    std::vector<Row> rows;
    for (size_t i = 0; i < distances.size(); ++i)
        rows.push_back(
            {strf("error of a corrected end at distance %g", distances[i]), claims[i],
             strf("%.1e", published[i].published),
             strf("a field that bends: %.1e as published, %.1e exact", bending[i].published, bending[i].exact)});
    return rows;
}

Row truncation_row(const MetricField& field) {
    Random random(kSeed);
    std::vector<double> v(kDim);
    for (double& e : v) e = random.normal();
    v = unit_speed(field, field.point(0), v.data());
    const Flow flow = geodesic_flow(LeviCivita(field), field.point(0), v.data(), 0.1, 16);
    const Truncation t =
        truncation_error({flow.by_x.end() - static_cast<ptrdiff_t>(kDim * kDim), flow.by_x.end()}, kDim, 5);
    return {"error of a propagator of rank 5", "0.0", strf("%.3f (sqrt(3/8) = 0.612)", t.product),
            strf("I + U V^T: %.1e", t.identity_and_product)};
}

Row substitution_row(const MetricField& field) {
    const Substitution s = published_substitution(field, 16, 6.4, kSeed);
    return {"queries that a record corrects", "1.000", strf("%.3f within the radius", s.within),
            strf("error of their way: mean %.2f, median %.2f", s.mean_error, s.median_error)};
}

Row batch_row(const MetricField& field) {
    constexpr size_t kCount = 10000;
    Random random(kSeed);
    std::vector<double> queries(kCount * kDim), propagator(kDim * kDim), sink;
    for (double& q : queries) q = random.normal();
    for (double& p : propagator) p = random.normal();
    const auto batch = [&] { sink = corrected(field.point(0), propagator.data(), field.point(1), kDim, queries); };
    const auto single = [&] {
        for (size_t q = 0; q < kCount; ++q)
            sink = corrected(field.point(0), propagator.data(), field.point(1), kDim,
                             {queries.begin() + static_cast<ptrdiff_t>(q * kDim),
                              queries.begin() + static_cast<ptrdiff_t>((q + 1) * kDim)});
    };
    std::vector<double> ratios, each;
    for (int round = 0; round < 7; ++round) {
        const double together = seconds_of(batch);
        ratios.push_back(seconds_of(single) / together);
        each.push_back(together / kCount * 1e6);
    }
    return {"corrections of 10,000 at once, against one by one", "60x, 0.0185 us each",
            strf("%.1fx, %.4f us each", percentile(ratios, 0.5), percentile(each, 0.5)), "their ratio was Python's"};
}

// What a correction saves: the geodesic that it stands for, 16 steps of 0.05, by the connection of the nearest point.
Row saving_row(const MetricField& field) {
    const NearestConnection connection(field);
    Random random(kSeed);
    std::vector<double> propagator(kDim * kDim), v(kDim), sink;
    for (double& p : propagator) p = random.normal();
    for (double& e : v) e = random.normal();
    const std::vector<double> query(field.point(2), field.point(2) + kDim);
    constexpr int kTimes = 100;
    const auto path = [&] {
        for (int i = 0; i < kTimes; ++i) sink = geodesic::geodesic(connection, field.point(0), v.data(), 0.05, 16).x;
    };
    const auto correction = [&] {
        for (int i = 0; i < kTimes; ++i)
            sink = corrected(field.point(0), propagator.data(), field.point(1), kDim, query);
    };
    std::vector<double> paths, corrections;
    for (int round = 0; round < 7; ++round) {
        paths.push_back(seconds_of(path) / kTimes * 1e6);
        corrections.push_back(seconds_of(correction) / kTimes * 1e6);
    }
    const double of_path = percentile(paths, 0.5), of_correction = percentile(corrections, 0.5);
    return {"a correction in place of a geodesic", "158x to 184x, 2 us",
            strf("%.0fx, %.2f us", of_path / of_correction, of_correction),
            strf("the geodesic takes %.0f us", of_path)};
}

Row velocity_row(const PublishedCloud& cloud) {
    const MetricField field = bending_field(cloud, 6);
    const LeviCivita connection(field);
    double straight = 0, bent = 0, arrived = 0;
    size_t count = 0;
    for (size_t p = 0; p < 12; ++p) {
        const double *x = field.point(p), *y = field.point(nearest_others(6, lifted(cloud, 6, kSeed), p, 1)[0]);
        const Shot shot = shoot(connection, x, y, 12, 10);
        if (shot.miss > 1e-6) continue;
        ++arrived;
        const std::vector<double> truth = unit_speed(field, x, shot.velocity.data());
        const auto cosine = [&](std::vector<double> v) {
            for (size_t i = 0; i < v.size(); ++i) v[i] += truth[i];
            return pow(g_norm(field, x, v.data()), 2) / 2 - 1;  // of unit vectors: |a + b|^2 = 2 + 2 cos
        };
        straight += cosine(straight_velocity(field, x, y));
        bent += cosine(bent_velocity(field, connection, x, y));
        ++count;
    }
    const double n = static_cast<double>(std::max<size_t>(count, 1));
    return {"initial velocity, target known: cosine with the geodesic's", "1.0", strf("straight %.3f", straight / n),
            strf("with the published correction %.3f; %.0f of 12 shots arrived", bent / n, arrived)};
}

double slope(const std::vector<double>& distances, const std::vector<double>& errors) {
    return log(errors.back() / errors.front()) / log(distances.back() / distances.front());
}

Row sphere_row() {
    constexpr double kStep = 0.05;
    constexpr size_t kSteps = 20, n = 3;
    const SphereMetric sphere(n, 1.5);
    const LeviCivita connection(sphere);
    const double x[] = {0.4, -0.3, 0.8}, toward[] = {0.5, 1, -0.2};
    const std::vector<double> v = unit_speed(sphere, x, toward);
    const Flow flow = geodesic_flow(connection, x, v.data(), kStep, kSteps);
    const std::vector<double> published = published_propagator(connection, flow.path, kStep);
    const std::vector<double> distances = {0.005, 0.08};
    std::vector<double> exact_errors, published_errors;
    for (const double d : distances) {
        const auto error = [&](const std::vector<double>& phi) {
            return propagator_error(sphere, connection, flow, kStep, &phi[kSteps * n * n], d, 12, kSeed).mean;
        };
        exact_errors.push_back(error(flow.by_x));
        published_errors.push_back(error(published));
    }
    double speed = 0;
    for (size_t t = 0; t <= kSteps; ++t)
        speed = fmax(speed, fabs(g_norm(sphere, &flow.path.x[t * n], &flow.path.v[t * n]) - 1));
    return {"sphere: error falls with which power of the distance", "2 (\"exact\")",
            strf("published propagator %.2f", slope(distances, published_errors)),
            strf("flow %.2f; speed within %.0e", slope(distances, exact_errors), speed)};
}

void protocol(const std::string& directory, const Console& console) {
    Json out = Json::array();
    std::vector<Row> all = {sphere_row()};
    const auto show = [&](const std::string& title) {
        Table table({"experiment", "published", "here", "beside it"}, 4);
        for (const Row& row : all) {
            table.add({row.what, row.published, row.measured, row.beside});
            out.push_back({{"of", title},
                           {"experiment", row.what},
                           {"published", row.published},
                           {"here", row.measured},
                           {"beside", row.beside}});
        }
        if (!console.json) printf("%s\n%s\n", title.c_str(), table.text().c_str());
    };
    show("closed forms");
    for (const char* model : {"smollm2-135m", "phi-3.5-mini", "gemma-4-e2b"}) {
        const std::string path = directory + "/" + model + "/phase1_manifold.json";
        if (directory.empty() || !std::filesystem::exists(path)) {
            if (!console.json) printf("%s: skipped, %s is not there\n", model, path.c_str());
            continue;
        }
        const PublishedCloud cloud = read_published_cloud(path);
        const MetricField field = published_field(kDim, lifted(cloud, kDim, kSeed), kNeighbours, kPublishedSigma);
        all = coverage_rows(field);
        for (Row& row : validity_rows(cloud)) all.push_back(std::move(row));
        all.push_back(truncation_row(field));
        all.push_back(substitution_row(field));
        all.push_back(saving_row(field));
        all.push_back(velocity_row(cloud));
        all.push_back(batch_row(field));
        show(model);
    }
    if (console.json) print_json(out);
}

}  // namespace

void add_geometry_protocol_verb(Verb geometry, Console& console) {
    Verb verb = add_verb(geometry, console, "protocol", "published experiments on activation clouds, again",
                         "  keel geometry protocol\n"
                         "  keel geometry protocol clouds/    where clouds/MODEL/phase1_manifold.json lie");
    auto directory = std::make_shared<std::string>();
    verb.add_option("clouds", *directory, "folder of the published clouds (default: none, closed forms alone)");
    verb.callback([directory, &console] { protocol(*directory, console); });
}

}  // namespace keel::tools
