"""Train the patch diffusion model (stage 2). Launched by launch_ddpm_patches_4gpu.sh."""

from omegaconf import DictConfig

from pipeline.cli import script


@script("train_ddpm")
def main(cfg: DictConfig) -> None:
    from pipeline.training import (  # here: they load for seconds, which mistakes and --help need not wait for
        run,
        stages,
    )

    run.run(cfg, stages.build_ddpm)


if __name__ == "__main__":
    main()
