// What the example needs of a simulation, in the shape that Geant4 gives it.
//
// In Geant4 these are G4ParticleDefinition, G4FastTrack, G4FastStep and G4VFastSimulationModel: the
// methods have the same names, are called at the same moments, and mean the same.
#pragma once

#include <array>
#include <cstdint>

struct ParticleDefinition {
  int pdg;
};

struct FastTrack {
  ParticleDefinition particle;
  double energy_MeV;
  std::array<double, 3> direction;  // cosines, in the frame of the calorimeter
  int event, track;
  std::int64_t seed;  // of this particle alone, such as of run, event and track
};

class FastStep {
 public:
  // The track ends here, its energy being that of the deposits.
  void KillPrimaryTrack() { killed_ = true; }
  bool killed() const { return killed_; }

 private:
  bool killed_ = false;
};

class FastSimulationModel {
 public:
  virtual ~FastSimulationModel() = default;
  // Whether the model is of such particles: asked once a kind.
  virtual bool IsApplicable(const ParticleDefinition&) = 0;
  // Whether this particle is one for the model; if not, the full simulation takes it.
  virtual bool ModelTrigger(const FastTrack&) = 0;
  virtual void DoIt(const FastTrack&, FastStep&) = 0;
  // At the end of an event, since Geant4 11.
  virtual void Flush() {}
};
