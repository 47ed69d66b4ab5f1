#include "kernels/formats/weight_types.h"

namespace keel::kernels {

constexpr WeightTypeInfo kNone = {nullptr, 0, 0, 0};

// In the order of the type numbers; the assertions below tie the places to the names.
constinit const WeightTypeInfo kWeightTypes[kWeightTypeLimit] = {
    //   name    elements bytes activation block
    /* 0*/ {"F32", 1, 4, 0},
    /* 1*/ {"F16", 1, 2, 0},
    /* 2*/ {"Q4_0", 32, 18, 32},
    /* 3*/ {"Q4_1", 32, 20, 32},
    /* 4*/ kNone,
    /* 5*/ kNone,
    /* 6*/ {"Q5_0", 32, 22, 32},
    /* 7*/ {"Q5_1", 32, 24, 32},
    /* 8*/ {"Q8_0", 32, 34, 32},
    /* 9*/ kNone,
    /*10*/ {"Q2_K", 256, 84, 256},
    /*11*/ {"Q3_K", 256, 110, 256},
    /*12*/ {"Q4_K", 256, 144, 256},
    /*13*/ {"Q5_K", 256, 176, 256},
    /*14*/ {"Q6_K", 256, 210, 256},
    /*15*/ kNone,
    /*16*/ kNone,
    /*17*/ kNone,
    /*18*/ kNone,
    /*19*/ kNone,
    /*20*/ {"IQ4_NL", 32, 18, 32},
    /*21*/ kNone,
    /*22*/ kNone,
    /*23*/ {"IQ4_XS", 256, 136, 256},
    /*24*/ kNone,
    /*25*/ kNone,
    /*26*/ kNone,
    /*27*/ kNone,
    /*28*/ kNone,
    /*29*/ kNone,
    /*30*/ {"BF16", 1, 2, 0},
    /*31*/ {"Q8_F32", 32, 36, 32},
};
static_assert(kQ4_1 == 3 && kQ5_0 == 6 && kQ8_0 == 8 && kQ2_K == 10 && kQ6_K == 14 && kIQ4_NL == 20 && kIQ4_XS == 23 &&
              kBF16 == 30 && kQ8_F32 == 31 && kWeightTypeLimit == 32);

}  // namespace keel::kernels
