"""Classes of the body part models and the groups that we make of them.

A class's id is its position in the table. The tables of Sapiens 1 and 2 differ by one class near the front, so that nearly all ids
do: they are never shared. No table has a neck of its own except that of face parsing.
"""
from __future__ import annotations

from dataclasses import dataclass

REST, FACE, HAIR, BODY, CLOTHING = "", "face", "hair", "body", "clothing"
GROUPS = (FACE, HAIR, BODY, CLOTHING)


@dataclass(frozen=True, slots=True)
class ClassTable:
    """rows: (class, its group) in the order of the ids; the group of what belongs to no person is empty."""

    rows: tuple[tuple[str, str], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.rows)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Group -> ids of its classes, for groups that have any."""
        ids = {group: tuple(number for number, (_, own) in enumerate(self.rows) if own == group) for group in GROUPS}
        return {group: numbers for group, numbers in ids.items() if numbers}


SAPIENS1 = ClassTable((
    ("Background", REST),
    ("Apparel", CLOTHING),
    ("Face_Neck", FACE),
    ("Hair", HAIR),
    ("Left_Foot", BODY),
    ("Left_Hand", BODY),
    ("Left_Lower_Arm", BODY),
    ("Left_Lower_Leg", BODY),
    ("Left_Shoe", CLOTHING),
    ("Left_Sock", CLOTHING),
    ("Left_Upper_Arm", BODY),
    ("Left_Upper_Leg", BODY),
    ("Lower_Clothing", CLOTHING),
    ("Right_Foot", BODY),
    ("Right_Hand", BODY),
    ("Right_Lower_Arm", BODY),
    ("Right_Lower_Leg", BODY),
    ("Right_Shoe", CLOTHING),
    ("Right_Sock", CLOTHING),
    ("Right_Upper_Arm", BODY),
    ("Right_Upper_Leg", BODY),
    ("Torso", BODY),
    ("Upper_Clothing", CLOTHING),
    ("Lower_Lip", FACE),
    ("Upper_Lip", FACE),
    ("Lower_Teeth", FACE),
    ("Upper_Teeth", FACE),
    ("Tongue", FACE),
))

SAPIENS1_FOREGROUND = ClassTable((
    ("Background", REST),
    ("Foreground", BODY),
))

SAPIENS2 = ClassTable((
    ("Background", REST),
    ("Apparel", CLOTHING),
    ("Eyeglass", FACE),
    ("Face_Neck", FACE),
    ("Hair", HAIR),
    ("Left_Foot", BODY),
    ("Left_Hand", BODY),
    ("Left_Lower_Arm", BODY),
    ("Left_Lower_Leg", BODY),
    ("Left_Shoe", CLOTHING),
    ("Left_Sock", CLOTHING),
    ("Left_Upper_Arm", BODY),
    ("Left_Upper_Leg", BODY),
    ("Lower_Clothing", CLOTHING),
    ("Right_Foot", BODY),
    ("Right_Hand", BODY),
    ("Right_Lower_Arm", BODY),
    ("Right_Lower_Leg", BODY),
    ("Right_Shoe", CLOTHING),
    ("Right_Sock", CLOTHING),
    ("Right_Upper_Arm", BODY),
    ("Right_Upper_Leg", BODY),
    ("Torso", BODY),
    ("Upper_Clothing", CLOTHING),
    ("Lower_Lip", FACE),
    ("Upper_Lip", FACE),
    ("Lower_Teeth", FACE),
    ("Upper_Teeth", FACE),
    ("Tongue", FACE),
))

# The names are those of jonathandinu/face-parsing; "l" is left, "_g" glasses, "ear_r" an earring, "neck_l" a necklace.
CELEB_A_MASK_HQ = ClassTable((
    ("background", REST),
    ("skin", FACE),
    ("nose", FACE),
    ("eye_g", FACE),
    ("l_eye", FACE),
    ("r_eye", FACE),
    ("l_brow", FACE),
    ("r_brow", FACE),
    ("l_ear", FACE),
    ("r_ear", FACE),
    ("mouth", FACE),
    ("u_lip", FACE),
    ("l_lip", FACE),
    ("hair", HAIR),
    ("hat", CLOTHING),
    ("ear_r", CLOTHING),
    ("neck_l", CLOTHING),
    ("neck", BODY),
    ("cloth", CLOTHING),
))
