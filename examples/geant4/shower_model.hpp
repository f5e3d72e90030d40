// Showers of an exported surrogate as a fast-simulation model.
#pragma once

#include <functional>
#include <vector>

#include "host.hpp"
#include "surrogate.hpp"

namespace physgen {

// Energy in one voxel, around the direction of the incoming particle.
struct Deposit {
  int event, track;
  int layer;                // id of the card
  std::size_t i_alpha, i_r;
  double r_mm, alpha_rad;   // middle of the voxel; in a layer of one sector, anywhere on the ring
  float energy_MeV;
  bool outside_domain;      // nothing is known of showers of such particles
};

class ShowerModel : public FastSimulationModel {
 public:
  using Sink = std::function<void(const Deposit&)>;

  // `sink` takes deposits at the end of an event; a host makes hits of them. Particles outside the
  // domain of the card are not triggered unless they are allowed. Throws CardError for a model that
  // is none of showers.
  ShowerModel(Surrogate surrogate, Sink sink, bool allow_outside_domain = false);

  bool IsApplicable(const ParticleDefinition& particle) override;
  bool ModelTrigger(const FastTrack& track) override;
  // Throws OutsideDomain, which says why ModelTrigger is false.
  void require_inside(const FastTrack& track) const;
  // The shower is only noted: all of an event are drawn together by Flush. Throws OutsideDomain.
  void DoIt(const FastTrack& track, FastStep& step) override;
  void Flush() override;

  // Of the next particle, in the place of that of its seed: for comparisons.
  void use_noise(std::vector<float> noise) { noise_ = std::move(noise); }

 private:
  struct Waiting {
    int event, track;
    std::int64_t seed;
    bool outside;
  };

  std::vector<double> conditions_of(const FastTrack& track) const;
  bool is_inside(const FastTrack& track) const;
  void deposit(const Waiting& shower, const float* voxels) const;

  Surrogate surrogate_;
  Sink sink_;
  bool allow_outside_domain_;
  std::vector<Waiting> waiting_;
  std::vector<Row> rows_;
  std::vector<float> noise_;
};

}  // namespace physgen
